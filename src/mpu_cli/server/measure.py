"""The first pass over a model and its base: digests, and per group the sizes that noise is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from mpu_cli.checkpoint.digest import combine, tensor_digest
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_span, spans, to_bytes
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadModelError

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

        A few large norm weights would otherwise set the unit for all: Gemma-3-270m's reach 1656 and are 99.98 % of the
        decoder's squared sum (docs/decisions/0002).
        """
        if self.matrix_elements:
            return sqrt(self.matrix_squares / self.matrix_elements)
        return sqrt(self.squares / self.elements)

    @property
    def vector_rms(self) -> float:
        """RMS of the norms and biases; 0 where there are none."""
        count = self.elements - self.matrix_elements
        return sqrt(max(self.squares - self.matrix_squares, 0.0) / count) if count and self.matrix_elements else 0.0

    @property
    def task_rms(self) -> float:
        """RMS(θ_ℓ − base_ℓ)."""
        return sqrt(self.difference_squares / self.elements)

    def add(self, values: torch.Tensor, *, matrix: bool) -> float:
        """Count float32 values in; returns the sum of their squares, which is not finite if one of them is not."""
        squares = _squares(values)
        self.elements += values.numel()
        self.squares += squares
        if matrix:
            self.matrix_elements += values.numel()
            self.matrix_squares += squares
        # Without sign and mantissa a float32 is 2^e; zeros stay zeros, and are stored exactly in any dtype.
        powers = (values.view(torch.int32) & 0x7F80_0000).view(torch.float32)
        self.spacing += _squares(powers)
        return squares

    def rounding_rms(self, dtype: str) -> float:
        """RMS of the error made by storing the group in `dtype`: uniform over a spacing of 2^(e−bits)."""
        return sqrt(self.spacing / 12 / self.elements) * 2.0 ** -_MANTISSA_BITS[dtype]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the first pass found."""

    digest: str
    base_digest: str | None
    groups: Mapping[str, GroupSize]
    grid: str
    """The coarsest dtype that holds every noised weight exactly: the model's own number grid."""


def measure(model: Checkpoint, base: Checkpoint | None, groups: Mapping[str, tuple[str, ...]]) -> Measured:
    """Read a model and its base once, side by side, a block at a time.

    Raises:
        BadModelError: the base lacks a tensor or has another shape; a weight that is not a number.
    """
    group_of = {name: group for group, names in groups.items() for name in names}
    sizes = {group: GroupSize() for group in groups}
    if base is not None:
        _check_base(model, base, group_of)
    grids = {"BF16", "F16"}
    parts: list[tuple[TensorInfo, str]] = []
    base_parts: list[tuple[TensorInfo, str]] = []
    with ThreadPoolExecutor(1) as hashing:
        for info in model.tensors.values():
            group = group_of.get(info.name)
            if group is None:
                parts.append((info, tensor_digest(info)))
                continue
            other = base.tensors[info.name] if base is not None else None
            digest, base_digest = hashlib.sha256(), hashlib.sha256()
            for start, stop in spans(info.elements):
                stored = read_span(info, start, stop)
                waiting = [hashing.submit(digest.update, to_bytes(stored))]
                values = stored.float()
                grids = {grid for grid in grids if info.dtype == grid or _on_grid(values, grid)}
                if not isfinite(sizes[group].add(values, matrix=len(info.shape) > 1)):
                    raise BadModelError(f"{info.file}: tensor {info.name} holds NaN or infinity", "repair the model first")
                if other is not None:
                    given = read_span(other, start, stop)
                    waiting.append(hashing.submit(base_digest.update, to_bytes(given)))
                    squares = _squares(values - given.float())
                    if not isfinite(squares):
                        raise BadModelError(f"{other.file}: tensor {info.name} holds NaN or infinity", "repair the base first")
                    sizes[group].difference_squares += squares
                wait(waiting)
            parts.append((info, digest.hexdigest()))
            if other is not None:
                base_parts.append((other, base_digest.hexdigest()))
    grid = "BF16" if "BF16" in grids else "F16" if "F16" in grids else "F32"
    if base is None:
        return Measured(combine(parts), None, sizes, grid)
    base_parts += [(info, tensor_digest(info)) for info in base.tensors.values() if info.name not in group_of]
    return Measured(combine(parts), combine(base_parts), sizes, grid)


def _on_grid(values: torch.Tensor, dtype: str) -> bool:
    return bool(torch.equal(values.to(TORCH_DTYPES[dtype]).float(), values))


def _check_base(model: Checkpoint, base: Checkpoint, names: Mapping[str, str]) -> None:
    for name in names:
        if name not in base.tensors:
            raise BadModelError(f"{base.path}: the base has no tensor {name}", "give the model that this one was fine-tuned from")
        if base.tensors[name].shape != model.tensors[name].shape:
            raise BadModelError(
                f"{base.path}: tensor {name} has shape {list(base.tensors[name].shape)} in the base and "
                f"{list(model.tensors[name].shape)} in the model",
                "give the model that this one was fine-tuned from",
            )


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
