"""What `mpu perturb --dry-run` says: files, disk and memory, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.server.settings import PerturbSettings

_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_SPAN = 1 << 20


def estimate_perturb(model: Path, settings: PerturbSettings) -> dict[str, Any]:
    """Upper bounds; with --dtype auto the larger choice, float32, is assumed."""
    source = open_checkpoint(model)
    layout = read_layout(source.config, shapes(source.tensors), model)
    width = BYTES_PER_ELEMENT["F32" if settings.dtype == "auto" else _STORED[settings.dtype]]
    copy_bytes = source.elements * width
    moved = {slot.tensor for layer in layout.layers for slots in layer.slots.values() for slot in slots}
    largest = max(max(source.tensors[name].elements for name in moved), _SPAN)
    return {
        "copies": settings.copies,
        "parameters": source.elements,
        "bytes_per_copy": copy_bytes,
        "disk_bytes": copy_bytes * settings.copies,
        "files": settings.copies * max(1, -(-copy_bytes // settings.max_shard_bytes)),
        "memory_bytes": (2 * settings.copies + 4) * largest * 4,
    }
