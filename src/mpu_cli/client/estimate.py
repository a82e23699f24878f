"""What `mpu unlearn --dry-run` says: disk and memory, from headers alone."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.read import is_bundle, read_handoff
from mpu_cli.bundle.tensors import is_frozen, open_copies
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import open_checkpoint

_STATE_BYTES = {"adamw": 8}
"""Optimizer state per trained parameter: two float32 moments; the factored optimizers keep next to none."""


def estimate_unlearn(source: Path, delta_dtype: str, optimizer: str) -> dict[str, int]:
    """Upper bounds without activations, which depend on the batch: weights and gradients are float32."""
    if is_bundle(source):
        manifest = read_handoff(source)
        copies = open_copies(source, manifest)
        model, count, frozen = next(iter(copies.values())), len(copies), manifest.frozen
    else:
        model, count, frozen = open_checkpoint(source), 1, tuple[str, ...]()
    trained = sum(info.elements for info in model.tensors.values() if not is_frozen(info.name, frozen))
    width = BYTES_PER_ELEMENT[STORED_NAMES[delta_dtype]]
    return {
        "copies": count,
        "parameters": model.elements,
        "disk_bytes": count * trained * width,
        "temporary_disk_bytes": 4 * model.elements,
        "memory_bytes": 4 * model.elements + (4 + _STATE_BYTES.get(optimizer, 0)) * trained,
    }
