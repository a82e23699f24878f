"""A model plus a change, streamed to a new model directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch

from mpu_cli.checkpoint.digest import combine
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_span, spans, to_bytes
from mpu_cli.checkpoint.header import NAMES, STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, blocks
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.checkpoint.writer import CheckpointWriter, with_dtype

Spans = Iterator[tuple[int, int, torch.Tensor]]
"""Consecutive pieces (start, stop, change) of a flattened tensor, float64, in weight units."""
Changes = Callable[[TensorInfo], Spans | None]
"""The change of a tensor, or None where there is none. May be asked twice."""

LEAST_COSINE = 0.99
"""`--dtype auto` keeps the model's dtype only if the rounded change keeps this cosine with the exact one."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What was written. `cosine` is between the change as stored and as meant; norms are Euclidean, relative to ‖θ‖."""

    digest: str
    dtype: str
    cosine: float
    relative_norm: float


def write_changed(model: Checkpoint, changes: Changes, directory: Path, dtype: str, shard_bytes: int) -> Changed:
    """Write θ + change into `directory`, with θ's side files; unchanged tensors are copied byte for byte.

    With dtype `auto` every tensor keeps its own if that loses little of the change, else all are written as float32.
    """
    changed = _write(model, changes, directory, None if dtype == "auto" else dtype, shard_bytes)
    if dtype == "auto" and model.float_dtypes != {"F32"} and changed.cosine < LEAST_COSINE:
        for file in directory.glob("model*.safetensors*"):
            file.unlink()
        changed = _write(model, changes, directory, "float32", shard_bytes)
    copy_side_files(model, directory, changed.dtype)
    return changed


def _write(model: Checkpoint, changes: Changes, directory: Path, dtype: str | None, shard_bytes: int) -> Changed:
    tensors = with_dtype(model.tensors.values(), STORED_NAMES[dtype] if dtype else None)
    writer = CheckpointWriter(directory, tensors, max_shard_bytes=shard_bytes, digest_tensors=True)
    sums = _Sums()
    try:
        for target in writer.order:
            source = model.tensors[target.name]
            pieces = changes(source)
            if pieces is None and source.dtype not in TORCH_DTYPES:
                for block in blocks(source):
                    writer.write(block)
            elif pieces is None:
                for start, stop in spans(source.elements):
                    original = read_span(source, start, stop)
                    sums.weights += float(torch.linalg.vector_norm(original, dtype=torch.float32)) ** 2
                    writer.write(to_bytes(original.to(TORCH_DTYPES[target.dtype])))
            else:
                for start, stop, change in pieces:
                    original = read_span(source, start, stop).double()
                    stored = (original + change).to(TORCH_DTYPES[target.dtype])
                    writer.write(to_bytes(stored))
                    sums.add(original, change, stored.double().sub_(original))
        written = writer.close()
    finally:
        writer.abort()
    digest = combine((info, written.tensors[info.name]) for info in writer.order)
    return Changed(digest, dtype or NAMES[model.dtype], sums.cosine, sums.relative_norm)


class _Sums:
    def __init__(self) -> None:
        self.weights = self.meant = self.stored = self.product = 0.0

    def add(self, original: torch.Tensor, meant: torch.Tensor, stored: torch.Tensor) -> None:
        self.weights += float(torch.dot(original, original))
        self.meant += float(torch.dot(meant, meant))
        self.stored += float(torch.dot(stored, stored))
        self.product += float(torch.dot(meant, stored))

    @property
    def relative_norm(self) -> float:
        return sqrt(self.meant / self.weights) if self.weights else 0.0

    @property
    def cosine(self) -> float:
        if self.meant == 0:
            return 1.0
        return self.product / sqrt(self.meant * self.stored) if self.stored else 0.0
