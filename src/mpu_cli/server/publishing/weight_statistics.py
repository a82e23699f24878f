"""The first pass over a model and its base: digests, and the sizes that noise is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from mpu_cli.bundle.finite import examine_tensor
from mpu_cli.checkpoint.digest import combine, tensor_digest
from mpu_cli.checkpoint.dtypes import (
    MANTISSA_BITS,
    TORCH_DTYPES,
    Scratch,
    converted,
    read_span,
    spans,
    to_bytes,
)
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadModelError

_PIECE = 1 << 16
"""Entries computed with at once."""


@dataclass(slots=True)
class GroupSize:
    """Sums over one group's entries; `spacing` is Σ 4^e with 2^e ≤ |value| < 2^(e+1)."""

    elements: int = 0
    squares: float = 0.0
    matrix_elements: int = 0
    matrix_squares: float = 0.0
    delta_squares: float = 0.0
    """Σ (θ − base)²."""
    spacing: float = 0.0

    @property
    def rms(self) -> float:
        """RMS(θ_ℓ) of the matrices, or of all tensors in a group without matrices.

        A few large norm weights would otherwise set the unit for all: Gemma-3-270m's reach 1656 and
        are 99.98 % of the decoder's squared sum (docs/decisions/0002).
        """
        if self.matrix_elements:
            return sqrt(self.matrix_squares / self.matrix_elements)
        return sqrt(self.squares / self.elements)

    @property
    def vector_rms(self) -> float:
        """RMS of the norms and biases; 0 in a group without them, or without matrices."""
        count = self.elements - self.matrix_elements
        if not count or not self.matrix_elements:
            return 0.0
        return sqrt(max(self.squares - self.matrix_squares, 0.0) / count)

    @property
    def task_rms(self) -> float:
        """RMS(θ_ℓ − base_ℓ)."""
        return sqrt(self.delta_squares / self.elements)

    def add(self, values: torch.Tensor, work: Scratch, *, matrix: bool) -> float:
        """Add float32 values.

        Returns:
            The sum of their squares, which is not finite if one of them is not.
        """
        squares = _squares(values)
        self.elements += values.numel()
        self.squares += squares
        if matrix:
            self.matrix_elements += values.numel()
            self.matrix_squares += squares
        # A float32 without sign and mantissa is 2^e; zeros stay zeros, and any dtype stores them
        # exactly.
        powers = work.tensor(torch.int32, len(values))
        torch.bitwise_and(values.view(torch.int32), 0x7F80_0000, out=powers)
        self.spacing += _squares(powers.view(torch.float32))
        return squares

    def rounding_rms(self, dtype: str) -> float:
        """RMS of the rounding to `dtype`: the error is uniform over a spacing of 2^(e − bits)."""
        return sqrt(self.spacing / 12 / self.elements) * 2.0 ** -MANTISSA_BITS[dtype]


@dataclass(frozen=True, slots=True)
class WeightStatistics:
    """Statistics of a model's weights, and of their distance from the base."""

    digest: str
    base_digest: str | None
    groups: Mapping[str, GroupSize]
    dtype: str
    """The narrowest dtype, as F32, that holds every weight of the groups exactly."""
    tensors: Mapping[str, str]
    """The digest of each tensor of the model."""


def weight_statistics(
    model: Checkpoint, base: Checkpoint | None, groups: Mapping[str, tuple[str, ...]]
) -> WeightStatistics:
    """Read a model and its base once, side by side, block by block.

    Raises:
        BadModelError: the base lacks a tensor or has another shape, or a weight is not finite.
    """
    group_of = {name: group for group, names in groups.items() for name in names}
    if base is not None:
        _check_base(model, base, group_of)
    first_pass = _FirstPass({group: GroupSize() for group in groups})
    with ThreadPoolExecutor(2) as hashing:
        digests = {
            name: first_pass.read(
                info, base.tensors[name] if base else None, group_of[name], hashing
            )
            for name, info in model.tensors.items()
            if name in group_of
        }
        known = {name: digest for name, (digest, _) in digests.items()}
        every = list(_all_digests(model, known, hashing, published=True))
        base_digest = None
        if base is not None:
            known = {name: digest for name, (_, digest) in digests.items()}
            base_digest = combine(_all_digests(base, known, hashing, published=False))
    return WeightStatistics(
        combine(every),
        base_digest,
        first_pass.sizes,
        first_pass.dtype,
        {info.name: digest for info, digest in every},
    )


def _all_digests(
    model: Checkpoint, known: Mapping[str, str], hashing: Executor, *, published: bool
) -> Iterator[tuple[TensorInfo, str]]:
    """The digest of every tensor; what is published must be finite, outside the groups too."""
    others = [info for name, info in model.tensors.items() if name not in known]
    yield from ((model.tensors[name], digest) for name, digest in known.items())
    if not published:
        yield from zip(others, hashing.map(tensor_digest, others), strict=True)
        return
    for info, (digest, finite) in zip(others, hashing.map(examine_tensor, others), strict=True):
        if not finite:
            raise _not_finite(info, "model")
        yield info, digest


class _FirstPass:
    """Memory and sums of the pass.

    Other threads hash a block while this one adds it, a piece in the processor's cache at a time.
    """

    def __init__(self, sizes: dict[str, GroupSize]) -> None:
        self.sizes = sizes
        self._exact = {"BF16", "F16"}
        self._stored, self._base_stored, self._values, self._base_values, self._work = (
            Scratch() for _ in range(5)
        )

    @property
    def dtype(self) -> str:
        """The narrowest dtype that has held every value exactly so far."""
        return next((name for name in ("BF16", "F16") if name in self._exact), "F32")

    def read(
        self, info: TensorInfo, base: TensorInfo | None, group: str, hashing: Executor
    ) -> tuple[str, str]:
        """Add one tensor to its group's sums; return its digest and its base's."""
        digest, base_digest = hashlib.sha256(), hashlib.sha256()
        size, matrix = self.sizes[group], len(info.shape) > 1
        for start, stop in spans(info.elements):
            stored = read_span(info, start, stop, self._stored)
            hashed = [hashing.submit(digest.update, to_bytes(stored))]
            if base is not None:
                base_stored = read_span(base, start, stop, self._base_stored)
                hashed.append(hashing.submit(base_digest.update, to_bytes(base_stored)))
            for first in range(0, stop - start, _PIECE):
                piece = slice(first, first + _PIECE)
                values = converted(stored[piece], torch.float32, self._values)
                self._exact = {
                    dtype
                    for dtype in self._exact
                    if info.dtype == dtype or _holds_exactly(dtype, values)
                }
                if not isfinite(size.add(values, self._work, matrix=matrix)):
                    raise _not_finite(info, "model")
                if base is not None:
                    before = converted(base_stored[piece], torch.float32, self._base_values)
                    delta = self._work.tensor(torch.float32, len(values))
                    squares = _squares(torch.sub(values, before, out=delta))
                    if not isfinite(squares):
                        raise _not_finite(base, "base")
                    size.delta_squares += squares
            wait(hashed)
        return digest.hexdigest(), base_digest.hexdigest()


def _not_finite(info: TensorInfo, what: str) -> BadModelError:
    return BadModelError(
        f"{info.file}: tensor {info.name} holds NaN or infinity", f"repair the {what} first"
    )


def narrowest_dtype(values: torch.Tensor) -> str:
    """The narrowest dtype, as F32, that holds these float32 values exactly."""
    return next((dtype for dtype in ("BF16", "F16") if _holds_exactly(dtype, values)), "F32")


def _holds_exactly(dtype: str, values: torch.Tensor) -> bool:
    return bool(torch.equal(values.to(TORCH_DTYPES[dtype]).float(), values))


def _check_base(model: Checkpoint, base: Checkpoint, names: Mapping[str, str]) -> None:
    hint = "give the model that this one was fine-tuned from"
    for name in names:
        if name not in base.tensors:
            raise BadModelError(f"{base.path}: the base has no tensor {name}", hint)
        if base.tensors[name].shape != model.tensors[name].shape:
            raise BadModelError(
                f"{base.path}: tensor {name} has shape {list(base.tensors[name].shape)} in the base"
                f" and {list(model.tensors[name].shape)} in the model",
                hint,
            )


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
