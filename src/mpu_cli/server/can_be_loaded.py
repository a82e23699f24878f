"""Whatever a client's programs would refuse of a copy is refused of the model, before and after a copy is written."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.modeling.load import check_runs, has_tokenizer, load_tokenizer, loading_errors


def check_loads(model: Checkpoint) -> None:
    """Open a model as `mpu unlearn` and `mpu eval` do, without its weights' numbers.

    Raises:
        BadModelError: what `check_runs` and `load_tokenizer` refuse.
    """
    check_runs(model)
    if has_tokenizer(model.path):
        load_tokenizer(model.path)


def check_published(copy: Path) -> None:
    """Open a copy that has been written, as a program that knows nothing of mpu does.

    Raises:
        BadModelError: it cannot be opened.
    """
    from transformers import AutoConfig

    with loading_errors(copy):
        AutoConfig.from_pretrained(copy, local_files_only=True, trust_remote_code=False)
    check_loads(open_checkpoint(copy))
