"""A job that is ready to train. Only this module decides method, rows, device and resumption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.client import methods
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.methods import Method, Value
from mpu_cli.client.training_rows import (
    RowEncoder,
    TrainingRows,
    alternate_rows,
    possible_alternates,
)
from mpu_cli.data.batches import RowSampling, pad_id
from mpu_cli.errors import UsageError
from mpu_cli.modeling import processes
from mpu_cli.training.checkpoints import CheckpointStore, Saved
from mpu_cli.training.distributed import choose_shared_device
from mpu_cli.training.training_sets import TrainingSets


@dataclass(frozen=True, slots=True)
class Run:
    """What all copies of a job share."""

    job: UnlearnJob
    """Its recipe has the digest of the rows as tokens."""
    method: Method
    parameters: Mapping[str, Value]
    inputs: frozenset[str]
    """What the loss reads: words of `training.loss_inputs.LOSS_INPUTS`."""
    encoder: RowEncoder
    rows: TrainingRows
    device: str

    @classmethod
    def of(cls, job: UnlearnJob, model: Path) -> Run:
        """Prepare a job for the model in a directory; its weights are not read.

        Raises:
            UsageError: the method lacks rows, two options exclude each other, the device is not
                available, or the processes cannot share the work.
            BadModelError, BadDataError: see `RowEncoder`.
        """
        recipe, settings = job.recipe, job.recipe.settings
        method, parameters = methods.get(recipe.method), dict(recipe.parameters)
        method.check(
            parameters,
            has_retain=bool(job.retain),
            has_alternates=all(row.alternate is not None for row in job.forget),
            has_unanswerable=bool(job.unanswerable),
        )
        if settings.smoothing:
            from mpu_cli.client.methods._split import split

            split(method, parameters)  # refuse it before any row is read
        if recipe.lora is not None and settings.fsdp:
            raise UsageError(
                "--lora-rank and --fsdp: adapters are not sharded",
                "leave --fsdp out: an adapter's optimizer is small",
            )
        if recipe.lora is not None and settings.is_pure_bfloat16:
            raise UsageError(
                "--lora-rank and --precision pure-bfloat16: adapters are float32",
                "give --precision bfloat16 or float32",
            )
        inputs = method.inputs_with(parameters)
        encoder = RowEncoder(model, recipe, job.note)
        rows = encoder.training_rows(
            job.forget,
            job.retain,
            possible_alternates(job.forget, job.refusals, settings)
            if "alternate" in inputs
            else (),
            job.unanswerable or (),
        )
        if "direction" in inputs:
            asked = [*job.forget, *(job.retain or ()), *(job.unanswerable or ())]
            rows.require_prompts(asked, method.name)
        job = replace(job, recipe=replace(recipe, tokens_digest=rows.digest))
        device = choose_shared_device(settings, len(rows.forget), inputs)
        return cls(job, method, parameters, inputs, encoder, rows, device)

    def loss(self) -> Callable[[Any, Any], Any]:
        """A new loss (model, batch) → scalar; its terms apart if the run smooths."""
        if self.job.recipe.settings.smoothing:
            from mpu_cli.client.methods._split import split

            return split(self.method, self.parameters)
        return self.method.bind(self.parameters)

    def sets(self, sampling: RowSampling) -> TrainingSets:
        """The rows in the order of one copy."""
        alternates = None
        if "alternate" in self.inputs:
            settings = self.job.recipe.settings
            dealt = alternate_rows(self.job.forget, self.job.refusals, settings, sampling)
            alternates = self.encoder.encoded(
                [row.with_answer(row.alternate or "") for row in dealt], "alternate answers"
            )
        padding = pad_id(self.encoder.tokenizer, self.encoder.vocabulary)
        return TrainingSets(
            self.rows.forget,
            self.rows.retain,
            padding,
            alternates,
            self.rows.unanswerable,
            sampling,
        )

    def checkpoint(self, store: CheckpointStore | None) -> Saved | None:
        """The checkpoint to continue from; the first process looks, and all get its answer.

        Raises:
            CheckFailedError: it belongs to another run, or was altered.
        """
        looks = store is not None and self.job.keeping.resume and processes.this_process().is_first
        saved: Saved | None = processes.from_first(store.latest() if store and looks else None)
        return saved
