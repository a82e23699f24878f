"""Write a model plus a change to a new model directory, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import isfinite, sqrt
from pathlib import Path

import torch

from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.digest import combine
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, converted, read_span, spans, to_bytes
from mpu_cli.checkpoint.header import NAMES, STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.model import SPAN, Checkpoint, blocks
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.checkpoint.writer import CheckpointWriter, with_dtype
from mpu_cli.errors import BadModelError

Spans = Iterator[tuple[int, int, torch.Tensor]]
"""Consecutive pieces (start, stop, change) of a flattened tensor, float64, in weight units.

Pieces of PIECE entries are fastest.
"""
Changes = Callable[[TensorInfo], Spans | None]
"""The change of a tensor, or None if it does not change. It may be called twice."""

PIECE = 1 << 16
"""Entries per computation step; a few float64 arrays of this length fit the CPU cache."""
LEAST_COSINE = 0.99
"""`--dtype auto` keeps the model's dtype if the stored change has at least this cosine similarity
with the exact change."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What was written.

    `cosine` compares the stored change with the exact one; `relative_norm` is ‖change‖ / ‖θ‖.
    """

    digest: str
    dtype: str
    cosine: float
    relative_norm: float
    model_square: float
    """‖θ‖² over all tensors."""
    squares: Mapping[str, float]
    """‖θ_t‖² of every tensor that changed, by name."""


def write_changed(
    model: Checkpoint, changes: Changes, directory: Path, dtype: str, shard_bytes: int
) -> Changed:
    """Write θ + change into `directory`, with the side files of θ.

    Unchanged tensors are copied byte for byte. With dtype `auto` every tensor keeps its dtype,
    unless rounding would lose too much of the change: then all are written as float32.
    """
    changed = _write(model, changes, directory, None if dtype == "auto" else dtype, shard_bytes)
    if dtype == "auto" and model.float_dtypes != {"F32"} and changed.cosine < LEAST_COSINE:
        for file in directory.glob("model*.safetensors*"):
            file.unlink()
        changed = _write(model, changes, directory, "float32", shard_bytes)
    copy_side_files(model, directory, changed.dtype)
    return changed


def _write(
    model: Checkpoint, changes: Changes, directory: Path, dtype: str | None, shard_bytes: int
) -> Changed:
    tensors = with_dtype(model.tensors.values(), STORED_NAMES[dtype] if dtype else None)
    writer = CheckpointWriter(
        directory, tensors, max_shard_bytes=shard_bytes, digest_files=False, digest_tensors=True
    )
    adder = _Adder(writer, model.path)
    try:
        for target in writer.order:
            source = model.tensors[target.name]
            pieces = changes(source)
            if pieces is not None:
                adder.changed(source, target, pieces)
            elif source.dtype in TORCH_DTYPES:
                adder.unchanged(source, target)
            else:
                for block in blocks(source):
                    writer.write(block)
        written = writer.close()
    finally:
        writer.abort()
    digest = combine((info, written.tensors[info.name]) for info in writer.order)
    sums = adder.sums
    return Changed(
        digest,
        dtype or NAMES[model.dtype],
        sums.cosine,
        sums.relative_norm,
        sums.weights,
        adder.squares,
    )


class _Adder:
    """Computes θ + change in float64, tensor by tensor and piece by piece."""

    def __init__(self, writer: CheckpointWriter, model: Path) -> None:
        self.writer, self._model, self.sums = writer, model, _Sums()
        self.squares: dict[str, float] = {}
        self._pool = Pool(4)
        self._read, self._original, self._result = Scratch(), Scratch(), Scratch()

    def changed(self, source: TensorInfo, target: TensorInfo, pieces: Spans) -> None:
        """Write θ + change of one tensor."""
        first, block, square = 0, torch.empty(0), 0.0
        for start, stop, change in pieces:
            if start == 0 or stop > first + len(block):
                first, end = start, max(stop, min(start + SPAN, source.elements))
                block = read_span(source, start, end, self._read)
            for a in range(start, stop, PIECE):
                b = min(a + PIECE, stop)
                original = self._original.tensor(torch.float64, b - a)
                original.copy_(block[a - first : b - first])
                exact = change[a - start : b - start]
                result = torch.add(original, exact, out=self._result.tensor(torch.float64, b - a))
                result.copy_(self._write(result, target)).sub_(original)
                square += self.sums.add(original, exact, result)
        self.squares[source.name] = square
        if not isfinite(self.sums.stored):  # one NaN or infinity makes the whole sum not finite
            hint = (
                "lower unlearn --learning-rate or aggregate --server-lr, or write float32 with"
                " --dtype float32"
            )
            raise self._not_finite(
                source, hint if isfinite(self.sums.weights) else "repair the model first"
            )

    def unchanged(self, source: TensorInfo, target: TensorInfo) -> None:
        """Write one tensor of θ, converted if the target has another dtype."""
        for start, stop in spans(source.elements):
            original = read_span(source, start, stop, self._read)
            for a in range(0, stop - start, PIECE):
                part = converted(original[a : a + PIECE], torch.float32, self._original)
                squares = float(torch.dot(part, part))
                if not isfinite(squares):  # beyond float32, or not a number
                    if not bool(torch.isfinite(part).all()):
                        raise self._not_finite(source, "repair the model first")
                    squares = float(part.double().square().sum())
                self.sums.weights += squares
                self._write(original[a : a + PIECE], target)

    def _not_finite(self, info: TensorInfo, hint: str) -> BadModelError:
        return BadModelError(
            f"{self._model}: tensor {info.name} holds, or would hold, NaN or infinity", hint
        )

    def _write(self, values: torch.Tensor, target: TensorInfo) -> torch.Tensor:
        """Store the next entries and return them as stored, valid until the next call."""
        dtype = TORCH_DTYPES[target.dtype]
        buffer = self._pool.take(len(values) * dtype.itemsize)
        stored = torch.frombuffer(buffer, dtype=dtype, count=len(values)).copy_(values)
        if dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
            raise BadModelError(
                f"{self._model}: tensor {target.name} overflows float16",
                "give --dtype float32 or --dtype bfloat16",
            )
        self.writer.write(to_bytes(stored), partial(self._pool.put, buffer))
        return stored


class _Sums:
    def __init__(self) -> None:
        self.weights = self.exact = self.stored = self.product = 0.0

    def add(self, original: torch.Tensor, exact: torch.Tensor, stored: torch.Tensor) -> float:
        """Add entries of all three; returns the sum of the squares of the original's."""
        square = float(torch.dot(original, original))
        self.weights += square
        self.exact += float(torch.dot(exact, exact))
        self.stored += float(torch.dot(stored, stored))
        self.product += float(torch.dot(exact, stored))
        return square

    @property
    def relative_norm(self) -> float:
        return sqrt(self.exact / self.weights) if self.weights else 0.0

    @property
    def cosine(self) -> float:
        if self.exact == 0:
            return 1.0
        return self.product / sqrt(self.exact * self.stored) if self.stored else 0.0
