"""The training loop: one subclass of transformers' Trainer that puts forget and retain rows into one step.

A batch is `{"forget": rows, "retain": rows, "reference": {"forget_nll": (B,)}}`, the last two only where the loss needs
them; rows are `input_ids`, `attention_mask`, `labels`, each (B, T), forget and retain padded on their own.

What Trainer would do by itself and is prevented here: divide no loss by the accumulation steps because the model takes
loss arguments (`loss_is_scaled_for_ga`), draw the order from the global generator, print, log, keep checkpoints, make
an output directory, use several GPUs at once, replace a NaN loss by the mean of the earlier ones, and leave
`use_cache` off in the configuration. It does reseed the global generators of Python, numpy and torch with the run's
seed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mpu_cli.data.batches import PairedRows, PairSampler
from mpu_cli.data.templates import Encoded
from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.training import optimizers
from mpu_cli.training.load import quiet_transformers
from mpu_cli.training.logprobs import answer_nll
from mpu_cli.training.settings import TrainingSettings

Batch = Mapping[str, Mapping[str, Tensor]]
LossFunction = Callable[[Any, Batch], Tensor]
"""(model, batch) → scalar loss, a mean over the batch; the model is in training mode."""
OnStep = Callable[[int, int, float], None]
"""(step from 1, total steps, the step's loss), called after each optimizer step."""

_REMEDY = "lower --learning-rate, or keep --max-grad-norm at 1"


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did. The losses are those of the first and the last step, before their updates."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float


def train(
    model: Any,
    loss: LossFunction,
    needs: AbstractSet[str],
    forget: Sequence[Encoded],
    retain: Sequence[Encoded] | None,
    settings: TrainingSettings,
    pad_id: int,
    on_step: OnStep | None = None,
) -> TrainingReport:
    """Train `model` in place; on return it is on the CPU, in evaluation mode.

    Args:
        model: a causal language model with float32 weights; parameters without `requires_grad` stay as they are.
        loss: see `LossFunction`.
        needs: "retain" puts retain rows into the batch, "reference" the forget rows' NLL under the model as it comes in
            (computed once, before the first step, in the same precision; no second model is kept).
        forget: the rows to forget; an epoch is one pass over them.
        retain: the rows to keep; not looked at unless the loss needs them.
        settings: see `TrainingSettings`.
        pad_id: what short rows are filled with.
        on_step: see `OnStep`.

    Two runs with the same arguments give the same bits on the same CPU with the same number of threads.

    Raises:
        UsageError: the device or precision is not to be had here, or several processes were launched.
        CheckFailedError: the loss or a weight became NaN or infinite.
        ValueError: the loss needs retain rows and there are none (a caller checks that before it loads anything).
    """
    if "retain" in needs and not retain:
        raise ValueError("this loss needs retain rows")
    started = time.monotonic()
    device = _device(settings)
    model.to(device)
    forget_nll = None
    if "reference" in needs:
        half = settings.precision == "bfloat16"
        with torch.autocast(device, dtype=torch.bfloat16) if half else nullcontext():
            forget_nll = [nll for nll, _ in answer_nll(model, forget, settings.batch_size, pad_id)]
    pairs = PairedRows(forget, retain if "retain" in needs else None, forget_nll, pad_id)
    use_cache = model.config.use_cache
    try:
        # Trainer insists on a directory although nothing is ever saved to it.
        with quiet_transformers(), tempfile.TemporaryDirectory(prefix="mpu-trainer-") as scratch:
            arguments = _arguments(settings, scratch, device, len(forget))
            trainer = UnlearningTrainer(model, loss, pairs, settings, arguments, on_step)
            trainer.train()
            # Otherwise forward() stays wrapped in bfloat16 autocast.
            trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)
    finally:
        model.config.use_cache = use_cache
        model.to("cpu").eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise CheckFailedError(f"after step {trainer.state.global_step}: {name} is NaN or infinite", _REMEDY)
    losses = trainer.step_losses
    return TrainingReport(len(losses), time.monotonic() - started, losses[0], losses[-1])


class UnlearningTrainer(Trainer):
    """Trainer with our batches, our order, our optimizers and no output of its own."""

    # Our losses are means over their own batch, so Trainer has to divide them by the accumulation steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        loss: LossFunction,
        pairs: PairedRows,
        settings: TrainingSettings,
        arguments: TrainingArguments,
        on_step: OnStep | None,
    ) -> None:
        """See `train`, which makes one and runs it."""
        self._loss, self._pairs, self._settings, self._on_step = loss, pairs, settings, on_step
        self._current_loss = 0.0
        self.step_losses: list[float] = []
        super().__init__(
            model=model, args=arguments, train_dataset=pairs, data_collator=pairs.batch, callbacks=[_StepEnd(self)]
        )
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The scalar loss of one batch; `num_items_in_batch` counts nothing here and is not used."""
        loss = self._loss(model, inputs)
        if not bool(torch.isfinite(loss)):
            raise CheckFailedError(f"step {self.state.global_step + 1}: the loss is {loss.item()}", _REMEDY)
        return loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; adds its share to the loss of the current optimizer step."""
        share: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._current_loss += share.item()
        return share

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer by its name, weight decay on all but norms and biases (as Trainer does)."""
        trained: Any = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(trained))
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups[name in decayed].append(parameter)
        chosen = optimizers.get(self._settings.optimizer)
        decay = self._settings.weight_decay
        self.optimizer = chosen.build(
            [
                {"params": parameters, "weight_decay": decay if is_decayed else 0.0}
                for is_decayed, parameters in groups.items()
                if parameters
            ],
            self._settings.learning_rate,
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int | None]]:
        # Trainer's one hook for an order of one's own.
        return PairSampler(self._settings.seed, self._pairs.n_forget, self._pairs.n_retain)

    def end_step(self) -> None:
        """Close the books of one optimizer step and tell the caller."""
        self.step_losses.append(self._current_loss)
        self._current_loss = 0.0
        if self._on_step is not None:
            self._on_step(self.state.global_step, self.state.max_steps, self.step_losses[-1])


class _StepEnd(TrainerCallback):
    def __init__(self, trainer: UnlearningTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.end_step()


def _device(settings: TrainingSettings) -> str:
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if settings.device == "auto":
        return next(name for name, is_there in present.items() if is_there)
    if not present[settings.device]:
        raise UsageError(f"--device {settings.device}: there is none on this machine", "leave --device out, or use cpu")
    return settings.device


def _arguments(settings: TrainingSettings, scratch: str, device: str, n_forget: int) -> TrainingArguments:
    batches = -(-n_forget // settings.batch_size)
    steps = settings.epochs * -(-batches // settings.gradient_accumulation)
    half = settings.precision == "bfloat16"
    try:
        arguments = TrainingArguments(
            output_dir=scratch,
            max_steps=min(steps, settings.max_steps or steps),
            per_device_train_batch_size=settings.batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="constant",
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            bf16=half,
            use_cpu=device == "cpu",
            seed=settings.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
    except ValueError as error:
        raise UsageError(f"--precision {settings.precision}: {str(error).splitlines()[0]}") from error
    # An ACCELERATE_MIXED_PRECISION in the environment would win over --precision otherwise.
    arguments.mixed_precision = "bf16" if half else "no"
    if arguments.world_size > 1:
        raise UsageError(
            f"training runs in one process, {arguments.world_size} were launched",
            "start mpu without torchrun or accelerate launch; train copies side by side with --copy K instead",
        )
    # Several visible GPUs would become nn.DataParallel, which multiplies the batch.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
