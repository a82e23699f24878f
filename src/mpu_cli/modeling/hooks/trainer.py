"""transformers' Trainer, with names of our own for the private methods that training replaces."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments


class HookedTrainer(Trainer):
    """A Trainer that leaves batches, order and checkpoints to its subclass, and prints nothing."""

    # Losses are means over their own batch, so Trainer must divide them by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(self, **options: Any) -> None:
        """`options` are Trainer's own."""
        super().__init__(**options, callbacks=[_Callback(self)])
        self.remove_callback(PrinterCallback)

    @abstractmethod
    def sampler(self) -> Sampler[Any]:
        """The order of the rows."""

    @abstractmethod
    def begin(self) -> None:
        """The model is wrapped, and the first batch comes next."""

    @abstractmethod
    def before_step(self, rate: float) -> None:
        """Gradients are there, weights have not moved; `rate` is this step's learning rate."""

    @abstractmethod
    def end_step(self, control: Any) -> None:
        """A step is done; `control.should_training_stop` ends the run."""

    @abstractmethod
    def restore_weights(self) -> None:
        """Put the checkpoint's weights into the model."""

    @abstractmethod
    def restore_state(self) -> None:
        """Put the checkpoint's optimizer and schedule back."""

    @abstractmethod
    def restore_generators(self) -> None:
        """Put the checkpoint's random generators back."""

    def passes_of_step(self) -> int:
        """Forward passes of the current step; an epoch's last step may have fewer than others."""
        return int(self.current_gradient_accumulation_steps)

    def get_train_dataloader(self) -> Any:
        """Whole batches in every process; accelerate would pad the last one with earlier rows."""
        loader: DataLoader[Any] = DataLoader(
            cast("Dataset[Any]", self.train_dataset),
            batch_size=self.batch_size(),
            sampler=self.sampler(),
            collate_fn=self.data_collator,
        )
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    @abstractmethod
    def batch_size(self) -> int:
        """Rows of a batch, over all processes."""

    def unwrap_forward(self) -> None:
        """Take bfloat16 autocast off the model's forward method again."""
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any]:
        return self.sampler()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.restore_weights()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.restore_state()

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            self.restore_generators()


def fix_arguments(arguments: TrainingArguments, *, bfloat16: bool) -> None:
    """Let neither the environment nor a second GPU change what was asked for."""
    # An ACCELERATE_MIXED_PRECISION in the environment wins over bf16=.
    arguments.mixed_precision = "bf16" if bfloat16 else "no"
    # Several visible GPUs would become nn.DataParallel, which multiplies the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)


class _Callback(TrainerCallback):
    def __init__(self, trainer: HookedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.before_step(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.end_step(control)
