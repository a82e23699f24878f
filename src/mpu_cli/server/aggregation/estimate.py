"""Disk and memory of `mpu aggregate`, for `--dry-run`."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.server.estimate import largest_moved, tensor_bytes_limit


def estimate_aggregate(model: Path, dtype: str) -> dict[str, int]:
    """Upper bounds for an aggregation of up to three copies."""
    source = open_checkpoint(model)
    return {
        "parameters": source.elements,
        "disk_bytes": tensor_bytes_limit(source, dtype),
        "memory_bytes": 24 * largest_moved(source),
    }
