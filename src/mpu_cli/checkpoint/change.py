"""A model plus a change, streamed to a new model directory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
"""Consecutive pieces (start, stop, change) of a flattened tensor, float64, in weight units; best of PIECE entries."""
Changes = Callable[[TensorInfo], Spans | None]
"""The change of a tensor, or None where there is none. May be asked twice."""

PIECE = 1 << 16
"""Entries computed with at once: a few float64 arrays of them stay in the processor's cache."""
LEAST_COSINE = 0.99
"""`--dtype auto` keeps the model's dtype only if the rounded change keeps this cosine with the exact one."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What was written. `cosine` is between the change as stored and as meant.

    Norms are Euclidean, relative to ‖θ‖.
    """

    digest: str
    dtype: str
    cosine: float
    relative_norm: float


def write_changed(
    model: Checkpoint, changes: Changes, directory: Path, dtype: str, shard_bytes: int
) -> Changed:
    """Write θ + change into `directory`, with θ's side files.

    Unchanged tensors are copied byte for byte.

    With dtype `auto` every tensor keeps its own if that loses little of the change, else all are
    written as float32.
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
    return Changed(digest, dtype or NAMES[model.dtype], adder.sums.cosine, adder.sums.relative_norm)


class _Adder:
    """θ + change, tensor by tensor: float64 inside, a piece in the processor's cache at a time."""

    def __init__(self, writer: CheckpointWriter, model: Path) -> None:
        self.writer, self._model, self.sums = writer, model, _Sums()
        self._pool = Pool(4)
        self._read, self._original, self._result = Scratch(), Scratch(), Scratch()

    def changed(self, source: TensorInfo, target: TensorInfo, pieces: Spans) -> None:
        """Write θ + change of one tensor."""
        first, block = 0, torch.empty(0)
        for start, stop, change in pieces:
            if start == 0 or stop > first + len(block):
                first, block = (
                    start,
                    read_span(
                        source, start, max(stop, min(start + SPAN, source.elements)), self._read
                    ),
                )
            for a in range(start, stop, PIECE):
                b = min(a + PIECE, stop)
                original = self._original.tensor(torch.float64, b - a).copy_(
                    block[a - first : b - first]
                )
                meant = change[a - start : b - start]
                result = torch.add(original, meant, out=self._result.tensor(torch.float64, b - a))
                result.copy_(self._write(result, target)).sub_(original)
                self.sums.add(original, meant, result)
        if not isfinite(
            self.sums.stored
        ):  # what is stored, less θ: one entry that is no number makes the sum none
            remedy = (
                "lower the learning rate (of unlearn, or the server's of aggregate), or store the"
                " result as float32: --dtype float32"
            )
            raise self._not_a_number(
                source, remedy if isfinite(self.sums.weights) else "repair the model first"
            )

    def unchanged(self, source: TensorInfo, target: TensorInfo) -> None:
        """Write one tensor of θ: its own bytes, unless another dtype is asked for."""
        for start, stop in spans(source.elements):
            original = read_span(source, start, stop, self._read)
            for a in range(0, stop - start, PIECE):
                part = converted(original[a : a + PIECE], torch.float32, self._original)
                squares = float(torch.dot(part, part))
                if not isfinite(squares) and not bool(torch.isfinite(part).all()):
                    raise self._not_a_number(source, "repair the model first")
                self.sums.weights += squares
                self._write(original[a : a + PIECE], target)

    def _not_a_number(self, info: TensorInfo, remedy: str) -> BadModelError:
        return BadModelError(
            f"{self._model}: tensor {info.name} holds, or would hold, NaN or infinity", remedy
        )

    def _write(self, values: torch.Tensor, target: TensorInfo) -> torch.Tensor:
        """Store the next entries; returns them as stored, to be read before the next call."""
        dtype = TORCH_DTYPES[target.dtype]
        buffer = self._pool.take(len(values) * dtype.itemsize)
        stored = torch.frombuffer(buffer, dtype=dtype, count=len(values)).copy_(values)
        if dtype == torch.float16 and not bool(torch.isfinite(stored).all()):
            raise BadModelError(
                f"{self._model}: tensor {target.name} would hold numbers that float16 cannot",
                "use --dtype float32 or bfloat16",
            )
        self.writer.write(to_bytes(stored), partial(self._pool.put, buffer))
        return stored


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
