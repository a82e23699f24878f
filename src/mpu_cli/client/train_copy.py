"""One copy, from its directory to the trained model's directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.client import lora, methods
from mpu_cli.errors import UsageError
from mpu_cli.training.run_context import OnStep, RunContext
from mpu_cli.training.system_errors import system_errors

if TYPE_CHECKING:
    from mpu_cli.architectures.projections import Projection
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.training_rows import TrainingRows
    from mpu_cli.data.batches import RowSampling
    from mpu_cli.data.rows import Row
    from mpu_cli.modeling.load import LoadedModel
    from mpu_cli.training.checkpoints import CheckpointStore
    from mpu_cli.training.settings import TrainingSettings
    from mpu_cli.training.stop_signal import StopSignal
    from mpu_cli.training.trainer import TrainingReport


def train_copy(
    source_dir: Path,
    after_dir: Path,
    forget: Sequence[Row],
    retain: Sequence[Row] | None,
    recipe: Recipe,
    frozen: Sequence[str] | None = None,
    on_step: OnStep | None = None,
    *,
    store: CheckpointStore | None = None,
    resume: bool = False,
    rows: TrainingRows | None = None,
    stop_after: int | None = None,
    log_dir: Path | None = None,
    drawing: RowSampling | None = None,
    refusals: Sequence[str] = (),
    reference_dir: Path | None = None,
    stop: StopSignal | None = None,
    on_note: Callable[[str], None] = lambda line: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> TrainingReport:
    """Load the model in `source_dir`, unlearn by `recipe`, save safetensors and config.json to `after_dir`.

    They are float32, or bfloat16 where the weights were trained so.

    With LoRA in the recipe, `after_dir` gets the adapter alone.

    Where several processes were launched, each calls this; the first one saves.

    Args:
        source_dir: a model directory with a tokenizer: a published copy, or any model.
        after_dir: where to write, created if need be. Not atomic: give a temporary directory and
            rename it.
        forget: the rows to forget.
        retain: the rows to keep, or None; they must be there if the method or a threshold needs
            them.
        recipe: the method, its parameters and settings.
        frozen: on-disk tensor names or patterns that must not move; None = input and output
            embeddings.
        on_step: called as (step, total steps, loss) after each step.
        store: where checkpoints go, if anywhere.
        resume: go on from the newest checkpoint in `store`, if there is one.
        rows: forget and retain as `RowEncoder` made them, if it did before.
        stop_after: end after so many steps: where the first copy stopped early.
        log_dir: where TensorBoard's event files go, if anywhere.
        drawing: the order of rows, beside the seed.
        refusals: to draw anew in each epoch, if the settings ask for it.
        reference_dir: whose log-probabilities the method compares with; None = those of the model
            in `source_dir`.
        stop: asked after each step; with a `store`, a signal then leaves a checkpoint.
        on_note: told what became of rows that are cut, split, packed or joined here, a line each.
        on_warning: told of experts that get no adapter, and of what is left out of config.json.

    Raises:
        UsageError: the method needs a retain set or alternate answers, or the device or precision
            is not to be had.
        BadModelError, BadDataError: see `load_model` and `RowEncoder`.
        KeyboardInterrupt: a signal came; a checkpoint holds what was done.
        CheckFailedError: the loss or a weight became NaN or infinite, or the checkpoint is another
            run's; nothing was written.
        OutputError: the result or a checkpoint cannot be written.
    """
    method = methods.get(recipe.method)
    parameters = dict(recipe.parameters)
    has_alternates = all(row.alternate is not None for row in forget)
    method.check(parameters, has_retain=bool(retain), has_alternates=has_alternates)
    inputs = method.inputs_with(parameters)

    # After the check: these take seconds to import.
    from mpu_cli.client.training_rows import RowEncoder
    from mpu_cli.data.batches import pad_id
    from mpu_cli.modeling import processes
    from mpu_cli.modeling.device import choose_device
    from mpu_cli.modeling.load import load_model
    from mpu_cli.training import distributed
    from mpu_cli.training.trainer import train

    settings = recipe.settings
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
    # A bad model and bad rows are found before the weights are read.
    encoder = RowEncoder(source_dir, recipe, on_note)
    rows = rows or encoder.training_rows(forget, retain)
    alternates = None
    if "alternate" in inputs:
        dealt = alternate_rows(forget, refusals, settings, drawing)
        alternates = encoder.encoded(
            [row.with_answer(row.alternate or "") for row in dealt], "alternate answers"
        )
    device = choose_device(settings.device)
    distributed.check_settings(settings, len(rows.forget), device, inputs)
    processes.join(device)
    # Only the first process looks, and all go on from what it found.
    saved = processes.from_first(
        store.latest() if store and resume and processes.this_process().is_first else None
    )
    loaded = _load(source_dir, frozen, settings, on_warning)
    adapted: list[Projection] = []
    if recipe.lora is not None:
        if (missed := lora.out_of_reach(loaded.model, recipe.lora)) is not None:
            on_warning(missed)
        adapted = lora.attach(
            loaded.model, recipe.lora, lora.matrices_of(source_dir), frozen or (), settings.seed
        )
    report = train(
        loaded.model,
        method.bind(parameters),
        inputs,
        rows.forget,
        rows.retain,
        settings,
        pad_id(encoder.tokenizer, encoder.vocabulary),
        alternates=alternates,
        stop_after=stop_after,
        run_context=RunContext(on_step, store, saved, log_dir, stop),
        drawing=drawing,
        load_reference=(
            None
            if reference_dir is None
            else lambda: load_model(reference_dir, bfloat16=settings.is_pure_bfloat16).model
        ),
    )
    if recipe.lora is None:
        _save(loaded, source_dir, after_dir)
    else:
        adapted = lora.moved(loaded.model, adapted)
        if processes.this_process().is_first:
            with disk_errors(after_dir), system_errors():
                lora.save(loaded.model, adapted, recipe.lora, after_dir)
    return report


def alternate_rows(
    forget: Sequence[Row],
    refusals: Sequence[str],
    settings: TrainingSettings,
    drawing: RowSampling | None,
) -> list[Row]:
    """The forget rows with their alternates.

    Where refusals are drawn anew, once for each epoch, one after the other.
    """
    if not (settings.redraw_refusals and refusals):
        return list(forget)
    from mpu_cli.data.batches import RowSampling
    from mpu_cli.data.refusals import with_refusals

    drawing = drawing or RowSampling()
    stream = "/".join(part for part in (drawing.stream(settings.seed), drawing.retain) if part)
    epochs = range(drawing.first_epoch, drawing.first_epoch + settings.epochs)
    return [
        row
        for epoch in epochs
        for row in with_refusals(
            forget, refusals, f"{stream}/epoch {epoch}", independent=drawing.independent
        )
    ]


def possible_alternates(
    forget: Sequence[Row], refusals: Sequence[str], settings: TrainingSettings
) -> list[Row]:
    """Rows that have every answer which any order of training may deal.

    The same for all copies, whatever order each has.
    """
    own = [row.with_answer(row.alternate) for row in forget if row.alternate is not None]
    return (
        own + [forget[0].with_answer(card) for card in refusals]
        if settings.redraw_refusals
        else own
    )


def _load(
    source_dir: Path,
    frozen: Sequence[str] | None,
    settings: TrainingSettings,
    on_warning: Callable[[str], None],
) -> LoadedModel:
    from mpu_cli.modeling.load import load_model

    loaded = load_model(
        source_dir,
        frozen,
        keep_dropout=settings.keep_dropout,
        fsdp=settings.fsdp,
        bfloat16=settings.is_pure_bfloat16,
    )
    for remark in loaded.remarks:
        on_warning(remark)
    return loaded


def _save(loaded: LoadedModel, source_dir: Path, after_dir: Path) -> None:
    from mpu_cli.modeling import processes
    from mpu_cli.modeling.load import quiet_transformers
    from mpu_cli.training import run_state

    model = loaded.model
    whole = run_state.gathered(model)
    if not processes.this_process().is_first:
        return
    # The saved configuration is the source's: dropout was switched off for training only.
    model.config = loaded.source_config
    # transformers refuses to save some recommendations that are published every day; the source's
    # file is copied below.
    model.generation_config = type(model.generation_config)()
    generation = source_dir / "generation_config.json"
    with disk_errors(after_dir), system_errors():
        with quiet_transformers():
            model.save_pretrained(after_dir, state_dict=whole)
        if generation.is_file():
            shutil.copyfile(generation, after_dir / generation.name)
        else:
            (after_dir / generation.name).unlink(missing_ok=True)
