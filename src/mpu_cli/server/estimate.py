"""What a model takes on disk and in memory, from its headers alone."""

from __future__ import annotations

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import SPAN, Checkpoint
from mpu_cli.checkpoint.side_files import side_files
from mpu_cli.checkpoint.space import stored_bytes


def model_bytes(source: Checkpoint, dtype: str) -> int:
    """A model directory's size on disk once it is stored as `dtype`; the least size for auto."""
    return stored_bytes(source, dtype) + sum(
        path.stat().st_size for path in side_files(source.path)
    )


def tensor_bytes_limit(source: Checkpoint, dtype: str) -> int:
    """An upper bound of the tensors' size on disk: auto may choose float32."""
    stored = "F32" if dtype == "auto" else STORED_NAMES[dtype]
    return source.elements * BYTES_PER_ELEMENT[stored]


def largest_moved(source: Checkpoint) -> int:
    """Entries of the largest tensor that a transform may move."""
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    moved = {
        slot.tensor for layer in layout.layers for slots in layer.slots.values() for slot in slots
    }
    return max(*(source.tensors[name].elements for name in moved), SPAN)
