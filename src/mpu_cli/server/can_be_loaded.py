"""Whether other programs can load a model: the original, and every copy that is published."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.modeling.load import check_runs, loading_errors
from mpu_cli.modeling.tokenizer import has_tokenizer, load_tokenizer


def check_loads(model: Checkpoint) -> None:
    """Open a model as `mpu unlearn` and `mpu eval` do, without reading its weights.

    Raises:
        BadModelError: see `check_runs` and `load_tokenizer`.
    """
    check_runs(model)
    if has_tokenizer(model.path):
        load_tokenizer(model.path)


def check_published(copy: Path) -> None:
    """Open a written copy as a program without mpu does, then as mpu does.

    Raises:
        BadModelError: the copy cannot be opened.
    """
    from transformers import AutoConfig

    with loading_errors(copy):
        AutoConfig.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
    check_loads(open_checkpoint(copy))
