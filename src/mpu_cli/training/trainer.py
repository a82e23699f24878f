"""The training loop: transformers' Trainer with forget and retain rows in one step.

A batch is `{"forget": rows, "retain": rows, "alternate": rows, "reference": {name: values}}`, all
but the first only where the loss reads them; rows are `input_ids`, `attention_mask`, `labels`, each
(B, T), each set padded on its own.

Trainer reseeds the global generators of Python, numpy and torch with the run's seed. These habits
of it are prevented: it divides no loss by the accumulation steps if the model takes loss arguments
(`loss_is_scaled_for_ga`), draws the order from the global generator, fills up a last batch with
rows seen before where there are several processes, prints, logs, keeps checkpoints that a killed
process leaves half-written, makes an output directory, uses several GPUs at once, replaces a NaN
loss by the mean of the earlier ones, and leaves `use_cache` off in the configuration.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.batches import PairedRows, PairSampler
from mpu_cli.data.grouping import LengthGroupedSampler
from mpu_cli.errors import CheckFailedError
from mpu_cli.modeling import processes
from mpu_cli.modeling.hidden import (
    freeze_above,
    freeze_all_but_down,
    layers_of,
    resolve_layer,
)
from mpu_cli.modeling.hooks.trainer import HookedTrainer
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.training import distributed, optimizers, reference, run_state
from mpu_cli.training.arguments import trainer_arguments
from mpu_cli.training.early_stop import Thresholds
from mpu_cli.training.effect import EffectSample
from mpu_cli.training.event_log import EventLog
from mpu_cli.training.loss_inputs import hidden_layer
from mpu_cli.training.report import Progress, TrainingReport
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.smoothing import SplitLoss, smoothed_gradient
from mpu_cli.training.stateful import StatefulLoss
from mpu_cli.training.states_effect import StatesSample
from mpu_cli.training.training_sets import TrainingSets

Batch = Mapping[str, Mapping[str, Tensor]]
LossFunction = Callable[[Any, Batch], Tensor]
"""(model, batch) → scalar loss, a mean over the batch; the model is in training mode."""

_REMEDY = "lower --learning-rate, or keep --max-grad-norm at 1"


def train(
    model: Any,
    loss: LossFunction,
    inputs: AbstractSet[str],
    sets: TrainingSets,
    settings: TrainingSettings,
    run: RunContext,
    *,
    load_reference: Callable[[], Any] | None = None,
    measures_answers: bool = True,
) -> TrainingReport:
    """Train `model` in place; on return it is in evaluation mode and, unless sharded, on the CPU.

    Two runs with the same arguments give the same bits on the same CPU with the same number of
    threads and processes, even if one was killed and continued from a checkpoint.

    Args:
        model: a causal language model, on the CPU; parameters without `requires_grad` stay as they
            are.
        loss: see `LossFunction`; a `StatefulLoss` keeps something from step to step, and smoothing
            needs a `SplitLoss`.
        inputs: words of `training.loss_inputs.LOSS_INPUTS`.
        sets: the rows.
        settings: see `TrainingSettings`.
        run: where and how; see `distributed.choose_shared_device` and `processes.join`.
        load_reference: loads the model that references come from; None = `model` before its first
            step. It is dropped before `model` is put on the device.
        measures_answers: whether the report tells how the answers changed, or, for the lower layers
            of a model, which have none, how the hidden states moved.

    Raises:
        UsageError: the precision is not available here, or the model has no layer that the loss
            could train.
        CheckFailedError: the loss or a weight became NaN or infinite.
        OutputError: a checkpoint or a reference cannot be written.
        ValueError: see `TrainingSets.check`; or smoothing is on and the loss is not split.
    """
    if settings.smoothing and not isinstance(loss, SplitLoss):
        raise ValueError("smoothing needs a SplitLoss")
    started = time.monotonic()
    thresholds = (
        Thresholds(settings, sets) if settings.stops_early and run.stop_after is None else None
    )
    pairs = None
    if load_reference is not None:
        pairs = reference.prepare(load_reference().to(run.device), inputs, sets, settings)
    if not settings.fsdp:
        model.to(run.device)
    if pairs is None:
        pairs = reference.prepare(model, inputs, sets, settings)
    layer = hidden_layer(inputs)
    if layer is not None and not settings.fsdp:
        (freeze_all_but_down if "hidden_down" in inputs else freeze_above)(model, layer)
    sample: Any = (
        EffectSample(sets, settings, trains_retain=pairs.n_retain > 0)
        if measures_answers
        else StatesSample(sets, settings, resolve_layer(layer or 0, layers_of(model)))
    )
    before = sample.measure(model)
    distributed.after_measuring(model)
    use_cache = model.config.use_cache
    with quiet_transformers():
        try:
            trainer = UnlearningTrainer(
                model, loss, pairs, _order(pairs, sets, settings), settings, run
            )
            trainer.run(thresholds)
            after = sample.measure(model)
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
        run.resume.step if run.resume else None,
        **{"effect" if measures_answers else "states": sample.effect(before, after)},
    )


def _order(pairs: PairedRows, sets: TrainingSets, settings: TrainingSettings) -> PairSampler:
    if settings.group_by_length:
        retain = sets.retain if pairs.n_retain else None
        return LengthGroupedSampler(
            settings.seed, sets.forget, retain, settings.batch_size, sets.sampling
        )
    return PairSampler(settings.seed, pairs.n_forget, pairs.n_retain, sets.sampling)


class UnlearningTrainer(HookedTrainer):
    """Trainer with mpu's batches, order, optimizers and checkpoints, and without output."""

    def __init__(
        self,
        model: Any,
        loss: LossFunction,
        pairs: PairedRows,
        order: PairSampler,
        settings: TrainingSettings,
        run: RunContext,
    ) -> None:
        """See `train`, which makes one and runs it."""
        self._loss, self._order = loss, order
        self._term, self._is_reported = loss, True
        self._waiting: list[dict[str, Any]] = []
        self._settings, self._run = settings, run
        self._thresholds: Thresholds | None = None
        self._steps_per_epoch = settings.steps_per_epoch(pairs.n_forget)
        self._current_loss, self._rate = 0.0, 0.0
        self._log: EventLog | None = None
        self._started = time.monotonic()
        self.progress = Progress()
        self._generators: list[dict[str, Any]] = []
        super().__init__(
            model=model,
            args=trainer_arguments(settings, run.device, pairs.n_forget),
            train_dataset=pairs,
            data_collator=lambda batch: pairs.batch(processes.share_of(batch), order.epoch),
        )

    def run(self, thresholds: Thresholds | None) -> None:
        """Train from the start, or from the checkpoint, to the end or to a threshold."""
        self._thresholds = thresholds
        resume = self._run.resume
        if self._run.log_dir is not None and self.is_world_process_zero():
            self._log = EventLog(self._run.log_dir)
        try:
            with warnings.catch_warnings():
                # torch's new name for it still copies buffers once; ours are the same everywhere.
                warnings.filterwarnings(
                    "ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning
                )
                self.train(resume_from_checkpoint=str(resume.path) if resume else None)
        finally:
            if self._log is not None:
                self._log.close()
        self.unwrap_forward()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """This process's part of the loss of one batch; `num_items_in_batch` is not used."""
        loss = self._term(model, inputs)
        whole = processes.mean(loss)
        if not bool(torch.isfinite(whole)):
            raise CheckFailedError(
                f"step {self.state.global_step + 1}: the loss is {whole.item()}", _REMEDY
            )
        passes = self.passes_of_step()
        if self._is_reported:
            self._current_loss += whole.item() / passes
        # Trainer divides by the passes of this step, which are fewer in an epoch's last step.
        share = passes / self._settings.gradient_accumulation
        return loss * share if self._settings.partial_step == "share" and share < 1 else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Add the gradient of one batch; with smoothing, the last batch of a step adds them all."""
        loss, settings = self._loss, self._settings
        if not (settings.smoothing and isinstance(loss, SplitLoss)):
            return super().training_step(model, inputs, num_items_in_batch)
        self._waiting.append(inputs)
        if len(self._waiting) == self.passes_of_step():
            # DDP averages all that is in `.grad` in the backward pass that synchronizes.
            forget = partial(self._add_gradients, model, loss.forget)
            smoothed_gradient(
                [one for one in model.parameters() if one.requires_grad],
                settings.smoothing,
                ascend=forget,
                forget=partial(forget, is_reported=False, is_last=loss.retain is None),
                retain=partial(self._add_gradients, model, loss.retain),
            )
            self._waiting.clear()
        return torch.zeros((), device=self.args.device)

    def _add_gradients(
        self,
        model: Any,
        term: LossFunction | None,
        *,
        is_reported: bool = True,
        is_last: bool = True,
    ) -> None:
        """Add one term's gradient on all waiting batches; the last may synchronize processes."""
        if term is None:
            return
        self._term, self._is_reported = term, is_reported
        for place, batch in enumerate(self._waiting, start=1):
            synchronizes = is_last and place == len(self._waiting)
            with nullcontext() if synchronizes else self.accelerator.no_sync(model):
                super().training_step(model, batch)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer; weight decay spares norms and biases unless `decay_all`."""
        trained: Any = self.model if model is None else model
        parameters = dict(trained.named_parameters())
        decayed = (
            set(parameters)
            if self._settings.decay_all
            else set(self.get_decay_parameter_names(trained))
        )
        groups: dict[bool, list[tuple[str, Any]]] = {True: [], False: []}
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                groups[name in decayed].append((name, parameter))
        decay = self._settings.weight_decay
        self.optimizer = optimizers.get(self._settings.optimizer).build(
            [
                {"params": members, "weight_decay": decay if is_decayed else 0.0}
                for is_decayed, members in groups.items()
                if members
            ],
            self._settings.learning_rate,
            trained.config.to_dict(),
        )
        return self.optimizer

    def sampler(self) -> PairSampler:
        """The order of the pairs."""
        return self._order

    def batch_size(self) -> int:
        """Pairs of a batch, over all processes."""
        return self._settings.batch_size

    def begin(self) -> None:
        """Check how Trainer wrapped the model; from here on a signal waits for a checkpoint."""
        distributed.check_wrapper(self.model_wrapped, self._settings.fsdp)
        if self._run.stop is not None and self._run.store is not None:
            self._run.stop.defer()

    def before_step(self, rate: float) -> None:
        """Note the step's learning rate."""
        self._rate = rate

    def end_step(self, control: Any) -> None:
        """Record one step; after an epoch, measure and maybe stop; maybe write a checkpoint."""
        step, total, progress = self.state.global_step, self.state.max_steps, self.progress
        progress.losses.append(self._current_loss)
        self._current_loss = 0.0
        if self._log is not None:
            self._log.scalars(step, loss=progress.losses[-1], learning_rate=self._rate)
        if self._run.on_step is not None and self.is_world_process_zero():
            self._run.on_step(step, total, progress.losses[-1])
        # Not in Trainer's on_epoch_end, which a run skips that continues from an epoch's end.
        if step % self._steps_per_epoch == 0 or step == total:
            self._end_epoch(step, control)
        ends = step == total or step == self._run.stop_after or control.should_training_stop
        control.should_training_stop = ends
        if not ends:
            self._maybe_save(step)

    def _end_epoch(self, step: int, control: Any) -> None:
        if isinstance(self._loss, StatefulLoss):
            self._loss.end_epoch()
        if self._thresholds is None:
            return
        check = processes.from_first(
            self._thresholds.evaluate(self.model, -(-step // self._steps_per_epoch))
        )
        distributed.after_measuring(self.model)
        self.progress.evaluations.append(check)
        if self._log is not None:
            self._log.scalars(
                step, forget_probability=check.forget, retain_probability=check.retain
            )
        if self._thresholds.reached(check):
            control.should_training_stop = True

    # Trainer finds its place in the data; `run_state` reads and writes the rest of a checkpoint.

    def _maybe_save(self, step: int) -> None:
        store, stop = self._run.store, self._run.stop
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
            # Nobody leaves before the checkpoint is complete: a launcher then ends all processes.
            processes.from_first(None)
            raise KeyboardInterrupt

    def restore_weights(self) -> None:
        """Put the checkpoint's weights back."""
        assert self._run.resume is not None
        run_state.restore_weights(self.model, self._run.resume.weights())

    def restore_state(self) -> None:
        """Put the rest of the checkpoint back, but for the random generators."""
        assert self._run.resume is not None
        state = self._run.resume.state()
        run_state.restore(self, self._loss, self.progress, state)
        self._generators = state["generators"]

    def restore_generators(self) -> None:
        """Put the random generators back, as late as Trainer asks for it."""
        run_state.restore_generators(self._generators)
