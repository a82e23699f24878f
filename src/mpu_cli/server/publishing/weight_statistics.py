"""The first pass over a model and its base.

digests, and per group the sizes that noise is measured by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from mpu_cli.bundle.finite import examine_tensor
from mpu_cli.checkpoint.digest import combine, tensor_digest
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, converted, read_span, spans, to_bytes
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadModelError

_PIECE = 1 << 16
"""Entries measured at once."""
_MANTISSA_BITS = {"F32": 23, "BF16": 7, "F16": 10}


@dataclass(slots=True)
class GroupSize:
    """Sums over one group's entries; `spacing` is Σ 4^e with 2^e ≤ |value| < 2^(e+1)."""

    elements: int = 0
    squares: float = 0.0
    matrix_elements: int = 0
    matrix_squares: float = 0.0
    difference_squares: float = 0.0
    spacing: float = 0.0

    @property
    def rms(self) -> float:
        """RMS(θ_ℓ) of the matrices; of everything where there are none.

        A few large norm weights would otherwise set the unit for all: Gemma-3-270m's reach 1656 and
        are 99.98 % of the decoder's squared sum (docs/decisions/0002).
        """
        if self.matrix_elements:
            return sqrt(self.matrix_squares / self.matrix_elements)
        return sqrt(self.squares / self.elements)

    @property
    def vector_rms(self) -> float:
        """RMS of the norms and biases; 0 where there are none."""
        count = self.elements - self.matrix_elements
        return (
            sqrt(max(self.squares - self.matrix_squares, 0.0) / count)
            if count and self.matrix_elements
            else 0.0
        )

    @property
    def task_rms(self) -> float:
        """RMS(θ_ℓ − base_ℓ)."""
        return sqrt(self.difference_squares / self.elements)

    def add(self, values: torch.Tensor, work: Scratch, *, matrix: bool) -> float:
        """Count float32 values in.

        Returns the sum of their squares, which is not finite if one of them is not.
        """
        squares = _squares(values)
        self.elements += values.numel()
        self.squares += squares
        if matrix:
            self.matrix_elements += values.numel()
            self.matrix_squares += squares
        # Without sign and mantissa a float32 is 2^e; zeros stay zeros, and are stored exactly in
        # any dtype.
        powers = work.tensor(torch.int32, len(values))
        torch.bitwise_and(values.view(torch.int32), 0x7F80_0000, out=powers)
        self.spacing += _squares(powers.view(torch.float32))
        return squares

    def rounding_rms(self, dtype: str) -> float:
        """RMS of the error made by storing the group in `dtype`.

        Uniform over a spacing of 2^(e−bits).
        """
        return sqrt(self.spacing / 12 / self.elements) * 2.0 ** -_MANTISSA_BITS[dtype]


@dataclass(frozen=True, slots=True)
class WeightStatistics:
    """What the first pass found."""

    digest: str
    base_digest: str | None
    groups: Mapping[str, GroupSize]
    grid: str
    """The coarsest dtype that holds every noised weight exactly: the model's own number grid."""


def measure(
    model: Checkpoint, base: Checkpoint | None, groups: Mapping[str, tuple[str, ...]]
) -> WeightStatistics:
    """Read a model and its base once, side by side, a block at a time.

    Raises:
        BadModelError: the base lacks a tensor or has another shape; a weight that is not a number.
    """
    group_of = {name: group for group, names in groups.items() for name in names}
    if base is not None:
        _check_base(model, base, group_of)
    job = _TensorToMeasure({group: GroupSize() for group in groups})
    with ThreadPoolExecutor(2) as hashing:
        noised = [info for info in model.tensors.values() if info.name in group_of]
        digests = {
            info.name: job.tensor(info, base, group_of[info.name], hashing) for info in noised
        }
        digest = combine(
            _completed(
                model,
                {name: first for name, (first, _) in digests.items()},
                hashing,
                published=True,
            )
        )
        if base is None:
            return WeightStatistics(digest, None, job.sizes, job.grid)
        second = {name: base_digest for name, (_, base_digest) in digests.items()}
        base_digest = combine(_completed(base, second, hashing, published=False))
    return WeightStatistics(digest, base_digest, job.sizes, job.grid)


def _completed(
    model: Checkpoint, known: Mapping[str, str], hashing: Executor, *, published: bool
) -> Iterator[tuple[TensorInfo, str]]:
    """The digest of every tensor.

    Those outside the groups are published too, so they must be numbers as well.

    Of the base nothing is published.
    """
    others = [info for name, info in model.tensors.items() if name not in known]
    yield from ((model.tensors[name], digest) for name, digest in known.items())
    if not published:
        yield from zip(others, hashing.map(tensor_digest, others), strict=True)
        return
    for info, (digest, finite) in zip(others, hashing.map(examine_tensor, others), strict=True):
        if not finite:
            raise _not_a_number(info, "model")
        yield info, digest


class _TensorToMeasure:
    """Memory and sums of the pass.

    A block is hashed by other threads while it is measured, a piece in the cache at a time.
    """

    def __init__(self, sizes: dict[str, GroupSize]) -> None:
        self.sizes = sizes
        self._grids = {"BF16", "F16"}
        self._stored, self._given, self._values, self._base, self._work = (
            Scratch() for _ in range(5)
        )

    @property
    def grid(self) -> str:
        """The coarsest dtype that held everything so far."""
        return "BF16" if "BF16" in self._grids else "F16" if "F16" in self._grids else "F32"

    def tensor(
        self, info: TensorInfo, base: Checkpoint | None, group: str, hashing: Executor
    ) -> tuple[str, str]:
        """Measure one tensor of a group; its digest and that of the base's."""
        digest, base_digest = hashlib.sha256(), hashlib.sha256()
        other = None if base is None else base.tensors[info.name]
        for start, stop in spans(info.elements):
            stored = read_span(info, start, stop, self._stored)
            waiting = [hashing.submit(digest.update, to_bytes(stored))]
            if other is not None:
                given = read_span(other, start, stop, self._given)
                waiting.append(hashing.submit(base_digest.update, to_bytes(given)))
            for first in range(0, stop - start, _PIECE):
                values = converted(stored[first : first + _PIECE], torch.float32, self._values)
                self._grids = {
                    grid for grid in self._grids if info.dtype == grid or _on_grid(values, grid)
                }
                if not isfinite(
                    self.sizes[group].add(values, self._work, matrix=len(info.shape) > 1)
                ):
                    raise _not_a_number(info, "model")
                if other is not None:
                    before = converted(given[first : first + _PIECE], torch.float32, self._base)
                    squares = _squares(
                        torch.sub(values, before, out=self._work.tensor(torch.float32, len(values)))
                    )
                    if not isfinite(squares):
                        raise _not_a_number(other, "base")
                    self.sizes[group].difference_squares += squares
            wait(waiting)
        return digest.hexdigest(), base_digest.hexdigest()


def _not_a_number(info: TensorInfo, what: str) -> BadModelError:
    return BadModelError(
        f"{info.file}: tensor {info.name} holds NaN or infinity", f"repair the {what} first"
    )


def _on_grid(values: torch.Tensor, dtype: str) -> bool:
    return bool(torch.equal(values.to(TORCH_DTYPES[dtype]).float(), values))


def _check_base(model: Checkpoint, base: Checkpoint, names: Mapping[str, str]) -> None:
    for name in names:
        if name not in base.tensors:
            raise BadModelError(
                f"{base.path}: the base has no tensor {name}",
                "give the model that this one was fine-tuned from",
            )
        if base.tensors[name].shape != model.tensors[name].shape:
            raise BadModelError(
                f"{base.path}: tensor {name} has shape {list(base.tensors[name].shape)} in the base"
                f" and {list(model.tensors[name].shape)} in the model",
                "give the model that this one was fine-tuned from",
            )


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
