"""What `--dry-run` says on the server's side: files, disk and memory, from headers alone."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import SPAN, Checkpoint, open_checkpoint
from mpu_cli.checkpoint.side_files import side_files
from mpu_cli.checkpoint.space import stored_bytes
from mpu_cli.server.publishing.settings import PerturbSettings


def estimate_perturb(model: Path, settings: PerturbSettings) -> dict[str, int]:
    """Upper bounds; with --dtype auto the larger choice, float32, is assumed."""
    source = open_checkpoint(model)
    copy_bytes = source.elements * _width(settings.dtype)
    largest = _largest_moved(source)
    return {
        "copies": settings.copies,
        "parameters": source.elements,
        "files": settings.copies * max(1, -(-copy_bytes // settings.max_shard_bytes)),
        "disk_bytes": copy_bytes * settings.copies,
        "memory_bytes": (2 * settings.copies + 4) * largest * 4,
    }


def estimate_aggregate(model: Path, dtype: str) -> dict[str, int]:
    """Likewise for one aggregation of up to three copies."""
    source = open_checkpoint(model)
    return {
        "parameters": source.elements,
        "disk_bytes": source.elements * _width(dtype),
        "memory_bytes": 24 * _largest_moved(source),
    }


def handoff_bytes(source: Checkpoint, copies: int, dtype: str) -> int:
    """What so many copies of a model take on disk.

    The least that it can be, where `dtype` is auto.
    """
    return copies * (
        stored_bytes(source, dtype) + sum(path.stat().st_size for path in side_files(source.path))
    )


def model_bytes(source: Checkpoint, dtype: str) -> int:
    """Likewise for the result of an aggregation."""
    return handoff_bytes(source, 1, dtype)


def _width(dtype: str) -> int:
    return BYTES_PER_ELEMENT["F32" if dtype == "auto" else STORED_NAMES[dtype]]


def _largest_moved(source: Checkpoint) -> int:
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    moved = {
        slot.tensor for layer in layout.layers for slots in layer.slots.values() for slot in slots
    }
    return max(*(source.tensors[name].elements for name in moved), SPAN)
