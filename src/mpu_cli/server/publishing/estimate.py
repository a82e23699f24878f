"""Files, disk and memory of `mpu perturb`, for `--dry-run` and before anything is written."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.space import require_space
from mpu_cli.server.estimate import largest_moved, model_bytes, tensor_bytes_limit
from mpu_cli.server.part import cut_of, part_of
from mpu_cli.server.publishing.settings import PerturbSettings


def estimate_perturb(model: Path, settings: PerturbSettings) -> dict[str, int]:
    """Upper bounds for a perturb of `model`."""
    source = open_checkpoint(model)
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    source = part_of(source, cut_of(source, layout, settings.upto))
    copy_bytes = tensor_bytes_limit(source, settings.dtype)
    return {
        "copies": settings.copies,
        "parameters": source.elements,
        "files": settings.copies * max(1, -(-copy_bytes // settings.max_shard_bytes)),
        "disk_bytes": copy_bytes * settings.copies,
        "memory_bytes": (2 * settings.copies + 4) * largest_moved(source) * 4,
    }


def require_handoff_space(handoff: Path, source: Checkpoint, copies: int, dtype: str) -> None:
    """Raise OutputError if the disk has no room for so many copies stored as `dtype`."""
    what = f"a handoff of {copies} cop{'y' if copies == 1 else 'ies'}"
    require_space(handoff, copies * model_bytes(source, dtype), what)
