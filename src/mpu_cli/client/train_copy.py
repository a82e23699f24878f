"""Train one model directory into another, by a prepared run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.architectures.projections import Projection
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.client import lora
from mpu_cli.client.run import Run
from mpu_cli.data.batches import FIRST_ROUND, RowSampling
from mpu_cli.modeling.load import LoadedModel, load_model
from mpu_cli.modeling.processes import this_process
from mpu_cli.modeling.tokenizer import quiet_transformers
from mpu_cli.training import run_state
from mpu_cli.training.report import TrainingReport
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.system_errors import system_errors


@dataclass(frozen=True, slots=True)
class CopyToTrain:
    """What is one copy's own."""

    source: Path
    """A model directory: a published copy, or any model."""
    after: Path
    """Where to write the result. Not atomic: give a temporary directory."""
    frozen: Sequence[str] | None = None
    """On-disk tensor names or patterns that must not move; None = input and output embeddings."""
    sampling: RowSampling = FIRST_ROUND
    """The order of the rows, besides the seed."""
    reference: Path | None = None
    """The model directory that the method compares with; None = `source`."""
    warn: Callable[[str], None] = lambda text: None
    """Called with what the user must know of this directory."""
    is_cut: bool = False
    """Whether it lacks its upper layers, so that its logits mean nothing."""


def train_copy(run: Run, copy: CopyToTrain, context: RunContext) -> TrainingReport:
    """Load a copy, unlearn, and save safetensors and config.json, or with LoRA the adapter alone.

    Weights are saved in float32, or in bfloat16 if they were trained so. Where several processes
    were launched, each calls this, and the first one saves.

    Raises:
        UsageError: the precision is not available, or LoRA targets do not fit the model.
        BadModelError: see `load_model`.
        KeyboardInterrupt: a signal came; a checkpoint holds what was done.
        CheckFailedError: the loss or a weight became NaN or infinite; nothing was written.
        OutputError: the result or a checkpoint cannot be written.
    """
    from mpu_cli.training.trainer import train  # takes seconds

    recipe, settings = run.job.recipe, run.job.recipe.settings
    sets = run.sets(copy.sampling)
    loaded = load_model(
        copy.source,
        copy.frozen,
        keep_dropout=settings.keep_dropout,
        fsdp=settings.fsdp,
        bfloat16=settings.is_pure_bfloat16,
    )
    for remark in loaded.remarks:
        copy.warn(remark)
    adapted: list[Projection] = []
    if recipe.lora is not None:
        if (missed := lora.out_of_reach(loaded.model, recipe.lora)) is not None:
            copy.warn(missed)
        matrices = lora.matrices_of(copy.source)
        adapted = lora.attach(loaded.model, recipe.lora, matrices, copy.frozen or (), settings.seed)
    reference = copy.reference
    report = train(
        loaded.model,
        run.loss(),
        run.inputs,
        sets,
        settings,
        context,
        measures_answers=not copy.is_cut,
        load_reference=(
            None
            if reference is None
            else lambda: load_model(reference, bfloat16=settings.is_pure_bfloat16).model
        ),
    )
    if recipe.lora is None:
        _save(loaded, copy)
    else:
        adapted = lora.moved(loaded.model, adapted)
        if this_process().is_first:
            with disk_errors(copy.after), system_errors():
                lora.save(loaded.model, adapted, recipe.lora, copy.after)
    return report


def _save(loaded: LoadedModel, copy: CopyToTrain) -> None:
    model = loaded.model
    whole = run_state.gathered(model)
    if not this_process().is_first:
        return
    # The saved configuration is the source's: dropout was switched off for training only.
    model.config = loaded.source_config
    # transformers refuses to save some recommendations that many models are published with; the
    # source's file is copied below.
    model.generation_config = type(model.generation_config)()
    generation = copy.source / "generation_config.json"
    with disk_errors(copy.after), system_errors():
        with quiet_transformers():
            model.save_pretrained(copy.after, state_dict=whole)
        if generation.is_file():
            shutil.copyfile(generation, copy.after / generation.name)
        else:
            (copy.after / generation.name).unlink(missing_ok=True)
