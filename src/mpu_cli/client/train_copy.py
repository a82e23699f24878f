"""One copy, from its directory to the trained model's directory."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.staging import disk_full
from mpu_cli.client import methods
from mpu_cli.errors import OutputError

if TYPE_CHECKING:
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.data.rows import Row
    from mpu_cli.training.load import LoadedModel
    from mpu_cli.training.trainer import OnStep, TrainingReport


def train_copy(
    source_dir: Path,
    after_dir: Path,
    forget: Sequence[Row],
    retain: Sequence[Row] | None,
    recipe: Recipe,
    frozen: Sequence[str] | None = None,
    on_step: OnStep | None = None,
) -> TrainingReport:
    """Load the model in `source_dir`, unlearn by `recipe`, save float32 safetensors and config.json to `after_dir`.

    Args:
        source_dir: a model directory with a tokenizer: a published copy, or any model.
        after_dir: where to write, created if need be. Not atomic: give a temporary directory and rename it.
        forget: the rows to forget.
        retain: the rows to keep, or None; they must be there if the method needs them.
        recipe: the method, its parameters and settings.
        frozen: on-disk tensor names or patterns that must not move; None = input and output embeddings.
        on_step: called as (step, total steps, loss) after each step.

    Raises:
        UsageError: the method needs a retain set, or the device or precision is not to be had.
        BadModelError, BadDataError: see `load_model` and `encode`.
        CheckFailedError: the loss or a weight became NaN or infinite; nothing was written.
        OutputError: the result cannot be written.
    """
    method = methods.get(recipe.method)
    parameters = dict(recipe.parameters)
    method.check_retain(parameters, has_retain=bool(retain))

    # After the check: these take seconds to import.
    from mpu_cli.data.batches import pad_id
    from mpu_cli.data.templates import encode
    from mpu_cli.training.load import load_model, load_tokenizer
    from mpu_cli.training.trainer import train

    settings = recipe.settings
    tokenizer = load_tokenizer(source_dir)
    # Bad rows are found before the weights are read.
    forget_rows = [encode(row, tokenizer, settings.max_length) for row in forget]
    retain_rows = [encode(row, tokenizer, settings.max_length) for row in retain or ()]
    loaded = load_model(source_dir, frozen, keep_dropout=settings.keep_dropout)
    report = train(
        loaded.model,
        method.bind(parameters),
        method.needs_with(parameters),
        forget_rows,
        retain_rows,
        settings,
        pad_id(tokenizer),
        on_step,
    )
    _save(loaded, source_dir, after_dir)
    return report


def _save(loaded: LoadedModel, source_dir: Path, after_dir: Path) -> None:
    from safetensors import SafetensorError

    from mpu_cli.training.load import quiet_transformers

    model = loaded.model
    # The saved configuration is the source's: dropout was switched off for training only.
    model.config = loaded.source_config
    generation = source_dir / "generation_config.json"
    try:
        with quiet_transformers():
            model.save_pretrained(after_dir)
        # transformers rewrites generation settings, and makes some up where there are none.
        if generation.is_file():
            shutil.copyfile(generation, after_dir / generation.name)
        else:
            (after_dir / generation.name).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        # safetensors says "No space left on device (os error 28)" without an errno.
        if getattr(error, "errno", None) == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error):
            raise disk_full(after_dir) from error
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{after_dir}: cannot be written ({reason})", "check space and permissions") from error
