"""The training loop: one subclass of transformers' Trainer that puts forget and retain rows into one step.

A batch is `{"forget": rows, "retain": rows, "alternate": rows, "reference": {name: values}}`, all
but the first only where the loss needs them; rows are `input_ids`, `attention_mask`, `labels`, each
(B, T), each set padded on its own.

What Trainer would do by itself and is prevented here: divide no loss by the accumulation steps
because the model takes loss arguments (`loss_is_scaled_for_ga`), draw the order from the global
generator, fill up a last batch with rows seen before where there are several processes, print, log,
keep checkpoints that a killed process leaves half-written, make an output directory, use several
GPUs at once, replace a NaN loss by the mean of the earlier ones, and leave `use_cache` off in the
configuration. It does reseed the global generators of Python, numpy and torch with the run's seed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mpu_cli.data.batches import PairedRows, PairSampler, RowSampling
from mpu_cli.data.grouping import LengthGroupedSampler
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import CheckFailedError
from mpu_cli.modeling import processes
from mpu_cli.modeling.device import choose_device
from mpu_cli.modeling.hidden import freeze_above
from mpu_cli.modeling.load import quiet_transformers
from mpu_cli.modeling.logprobs import answer_nll, mean_probability
from mpu_cli.training import distributed, optimizers, reference, run_state
from mpu_cli.training.arguments import trainer_arguments
from mpu_cli.training.early_stop import StopCheck, Thresholds
from mpu_cli.training.effect import Effect, EffectSample
from mpu_cli.training.event_log import EventLog
from mpu_cli.training.loss_inputs import hidden_layer
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.stateful import StatefulLoss

Batch = Mapping[str, Mapping[str, Tensor]]
LossFunction = Callable[[Any, Batch], Tensor]
"""(model, batch) → scalar loss, a mean over the batch; the model is in training mode."""

_REMEDY = "lower --learning-rate, or keep --max-grad-norm at 1"


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did. The losses are those of the first and the last step, before their updates."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    evaluations: tuple[StopCheck, ...] = ()
    """After each epoch, where a threshold asks for it."""
    resumed_from: int | None = None
    """The step of the checkpoint that the run went on from."""
    effect: Effect | None = None
    """What became of the answers; None only in what an older mpu kept of a copy."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TrainingReport:
        """From what `dataclasses.asdict` made of one."""
        evaluations = tuple(StopCheck(**each) for each in content["evaluations"])
        effect = Effect.of(content["effect"]) if content.get("effect") else None
        return cls(**{**content, "evaluations": evaluations, "effect": effect})


@dataclass(slots=True)
class Progress:
    """What has happened so far, and is kept in checkpoints."""

    losses: list[float] = field(default_factory=list)
    """The loss of each step."""
    evaluations: list[StopCheck] = field(default_factory=list)
    seconds: float = 0.0
    """Spent before this process took over."""


def train(
    model: Any,
    loss: LossFunction,
    inputs: AbstractSet[str],
    forget: Sequence[TokenizedRow],
    retain: Sequence[TokenizedRow] | None,
    settings: TrainingSettings,
    pad_id: int,
    *,
    alternates: Sequence[TokenizedRow] | None = None,
    stop_after: int | None = None,
    run_context: RunContext | None = None,
    drawing: RowSampling | None = None,
    load_reference: Callable[[], Any] | None = None,
) -> TrainingReport:
    """Train `model` in place.

    On return it is on the CPU (a sharded one stays where it is), in evaluation mode.

    Args:
        model: a causal language model, on the CPU; parameters without `requires_grad` stay as they
            are.
        loss: see `LossFunction`, and `StatefulLoss` for one that remembers.
        inputs: words of `training.loss_inputs.LOSS_INPUTS`; references are those of the model as it
            comes in, or of `load_reference`.
        forget: the rows to forget; an epoch is one pass over them.
        retain: the rows to keep; not looked at unless the loss or a threshold needs them.
        settings: see `TrainingSettings`.
        pad_id: what short rows are filled with.
        alternates: another answer to each forget row, if the loss needs them; or that many for each
            epoch.
        stop_after: end after so many steps, whatever the thresholds say: where the first of several
            copies stopped.
        run_context: see `RunContext`.
        drawing: the order of the rows, beside the seed.
        load_reference: loads the model that references are of; it is let go of before `model` is
            put on its device.

    Two runs with the same arguments give the same bits on the same CPU with the same number of
    threads and processes, also if one of them was killed and went on from a checkpoint.

    Raises:
        UsageError: the device or precision is not to be had here, or the processes cannot share the
            work.
        CheckFailedError: the loss or a weight became NaN or infinite.
        OutputError: a checkpoint or a reference cannot be written.
        ValueError: the loss needs rows and there are none (a caller checks that before it loads
            anything).
    """
    run_context = run_context or RunContext()
    started = time.monotonic()
    device = choose_device(settings.device)
    distributed.check_settings(settings, len(forget), device, inputs)
    processes.join(device)
    pairs = None
    if load_reference is not None:
        measured = load_reference().to(device)
        pairs = reference.prepare(
            measured, inputs, forget, retain, alternates, settings, pad_id, device, drawing
        )
        del measured
    if not settings.fsdp:
        model.to(device)
    thresholds = (
        Thresholds(settings, forget, retain, pad_id)
        if settings.stops_early and stop_after is None
        else None
    )
    if pairs is None:
        pairs = reference.prepare(
            model, inputs, forget, retain, alternates, settings, pad_id, device, drawing
        )
    layer = hidden_layer(inputs)
    if layer is not None and not settings.fsdp:
        freeze_above(model, layer)
    kept = retain if "retain" in inputs else None
    seen = min(
        settings.epochs * len(forget),
        settings.total_steps(len(forget)) * settings.batch_size * settings.gradient_accumulation,
    )
    sample = EffectSample(forget, retain or (), seen if kept is None else 2 * seen)

    def probability(rows: Sequence[TokenizedRow]) -> float:
        with torch.autocast(device, dtype=torch.bfloat16) if settings.autocasts else nullcontext():
            return mean_probability(answer_nll(model, rows, settings.batch_size, pad_id))

    before = sample.measure(probability)
    distributed.after_measuring(model)
    sampler = (
        LengthGroupedSampler(settings.seed, forget, kept, settings.batch_size, drawing)
        if settings.group_by_length
        else PairSampler(settings.seed, pairs.n_forget, pairs.n_retain, drawing)
    )
    use_cache = model.config.use_cache
    with quiet_transformers():
        try:
            arguments = trainer_arguments(settings, device, len(forget))
            trainer = UnlearningTrainer(
                model,
                loss,
                pairs,
                sampler,
                settings,
                arguments,
                run_context,
                thresholds,
                stop_after,
            )
            trainer.run()
            after = sample.measure(probability)
        finally:
            pairs.close()
            model.config.use_cache = use_cache
            if settings.gradient_checkpointing:
                model.activation_checkpointing_disable()
            (model if settings.fsdp else model.to("cpu")).eval()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(run_state.local(parameter)).all()):
            raise CheckFailedError(
                f"after step {trainer.state.global_step}: {name} is NaN or infinite", _REMEDY
            )
    progress = trainer.progress
    return TrainingReport(
        len(progress.losses),
        progress.seconds + time.monotonic() - started,
        progress.losses[0],
        progress.losses[-1],
        tuple(progress.evaluations),
        run_context.resume.step if run_context.resume else None,
        sample.effect(before, after),
    )


class UnlearningTrainer(Trainer):
    """Trainer with our batches, our order, our optimizers, our checkpoints and no output of its own."""

    # Our losses are means over their own batch, so Trainer has to divide them by the accumulation
    # steps.
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: Any,
        loss: LossFunction,
        pairs: PairedRows,
        sampler: PairSampler,
        settings: TrainingSettings,
        arguments: TrainingArguments,
        run_context: RunContext,
        thresholds: Thresholds | None,
        stop_after: int | None,
    ) -> None:
        """See `train`, which makes one and runs it."""
        self._loss, self._pairs, self._sampler = loss, pairs, sampler
        self._settings, self._run_context = settings, run_context
        self._thresholds, self._stop_after = thresholds, stop_after
        self._steps_per_epoch = settings.steps_per_epoch(pairs.n_forget)
        self._current_loss, self._rate = 0.0, 0.0
        self._log: EventLog | None = None
        self._started = time.monotonic()
        self.progress = Progress()
        self._generators: list[dict[str, Any]] | None = None
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=pairs,
            data_collator=lambda batch: pairs.batch(processes.share_of(batch), sampler.epoch),
            callbacks=[_Hooks(self)],
        )
        self.remove_callback(PrinterCallback)

    def run(self) -> None:
        """Train from the start, or from the checkpoint."""
        resume = self._run_context.resume
        if self._run_context.log_dir is not None and self.is_world_process_zero():
            self._log = EventLog(self._run_context.log_dir)
        try:
            with warnings.catch_warnings():
                # torch's new name for it would still copy buffers once; ours are the same
                # everywhere.
                warnings.filterwarnings(
                    "ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning
                )
                self.train(resume_from_checkpoint=str(resume.path) if resume else None)
        finally:
            if self._log is not None:
                self._log.close()
        # Otherwise forward() stays wrapped in bfloat16 autocast.
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """This process's part of the loss of one batch.

        `num_items_in_batch` counts nothing here and is not used.
        """
        loss = self._loss(model, inputs)
        whole = processes.mean(loss)
        if not bool(torch.isfinite(whole)):
            raise CheckFailedError(
                f"step {self.state.global_step + 1}: the loss is {whole.item()}", _REMEDY
            )
        passes = self.current_gradient_accumulation_steps
        self._current_loss += whole.item() / passes
        # Trainer divides by the passes that there are, which are fewer in an epoch's last step.
        share = passes / self._settings.gradient_accumulation
        return loss * share if self._settings.partial_step == "share" and share < 1 else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer by its name, weight decay on all but norms and biases (as Trainer does) unless asked for."""
        trained: Any = self.model if model is None else model
        everything = {name for name, _ in trained.named_parameters()}
        decayed = (
            everything if self._settings.decay_all else set(self.get_decay_parameter_names(trained))
        )
        groups: dict[bool, list[tuple[str, Any]]] = {True: [], False: []}
        for name, parameter in trained.named_parameters():
            if parameter.requires_grad:
                groups[name in decayed].append((name, parameter))
        chosen = optimizers.get(self._settings.optimizer)
        decay = self._settings.weight_decay
        self.optimizer = chosen.build(
            [
                {"params": parameters, "weight_decay": decay if is_decayed else 0.0}
                for is_decayed, parameters in groups.items()
                if parameters
            ],
            self._settings.learning_rate,
            trained.config.to_dict(),
        )
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """Whole batches in every process, of which the collator takes a share.

        Accelerate would fill up the last one.
        """
        # Trainer would have asked for the sampler here; the size of a batch is over all processes.
        loader: DataLoader[Any] = DataLoader(
            self._pairs,
            batch_size=self._settings.batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=self.data_collator,
        )
        return prepare_data_loader(loader, num_processes=1, process_index=0)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[tuple[int, int | None]]:
        return self._sampler

    def before_step(self, rate: float) -> None:
        """Gradients are there, weights have not moved; `rate` is this step's learning rate."""
        self._rate = rate

    def begin(self) -> None:
        """The model is wrapped and the first batch comes next."""
        distributed.check_wrapper(self.model_wrapped, self._settings.fsdp)
        if self._run_context.stop is not None and self._run_context.store is not None:
            self._run_context.stop.defer()

    def end_step(self, control: Any) -> None:
        """Close the books of one optimizer step.

        At an epoch's end measure, and maybe stop; maybe write a checkpoint.
        """
        step, total, progress = self.state.global_step, self.state.max_steps, self.progress
        progress.losses.append(self._current_loss)
        self._current_loss = 0.0
        if self._log is not None:
            self._log.scalars(step, loss=progress.losses[-1], learning_rate=self._rate)
        if self._run_context.on_step is not None and self.is_world_process_zero():
            self._run_context.on_step(step, total, progress.losses[-1])
        # Here and not in Trainer's on_epoch_end: a run that goes on from a checkpoint at an epoch's
        # end skips that one.
        if step % self._steps_per_epoch == 0 or step == total:
            self._end_epoch(step, control)
        ends = step == total or step == self._stop_after or control.should_training_stop
        control.should_training_stop = ends
        if not ends:
            self._maybe_save(step)

    def _end_epoch(self, step: int, control: Any) -> None:
        if isinstance(self._loss, StatefulLoss):
            self._loss.end_epoch()
        if self._thresholds is None:
            return
        found = processes.from_first(
            self._thresholds.evaluate(self.model, -(-step // self._steps_per_epoch))
        )
        distributed.after_measuring(self.model)
        self.progress.evaluations.append(found)
        if self._log is not None:
            self._log.scalars(
                step, forget_probability=found.forget, retain_probability=found.retain
            )
        if self._thresholds.reached(found):
            control.should_training_stop = True

    # Checkpoints: Trainer finds its place in the data; the rest is read and written by `run_state`.

    def _maybe_save(self, step: int) -> None:
        store, stop = self._run_context.store, self._run_context.stop
        if store is None:
            return
        asked = stop is not None and stop.asked_of_any()
        # The first process's clock decides for all.
        if not asked and not processes.from_first(store.due(step)):
            return
        elapsed = self.progress.seconds + time.monotonic() - self._started
        weights, state = run_state.capture(self, self._loss, self.progress, elapsed)
        if self.is_world_process_zero():
            store.save(step, weights, state, run_state.trainer_state_json(self.state))
        if asked:
            processes.from_first(
                None
            )  # nobody leaves before the checkpoint is complete: a launcher then ends all
            raise KeyboardInterrupt

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        assert self._run_context.resume is not None
        run_state.restore_weights(self.model, self._run_context.resume.weights())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._run_context.resume is not None:
            state = self._run_context.resume.state()
            run_state.restore(self, self._loss, self.progress, state)
            self._generators = state["generators"]

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if self._generators is not None:
            run_state.restore_generators(self._generators)


class _Hooks(TrainerCallback):
    def __init__(self, trainer: UnlearningTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.begin()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.before_step(float(kwargs["optimizer"].param_groups[0]["lr"]))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.end_step(control)
