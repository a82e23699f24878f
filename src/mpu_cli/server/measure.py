"""The first pass over a model and its base: digests, and per group the sizes that noise is measured by."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt

import torch

from mpu_cli.checkpoint.digest import combine, model_digest
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_span
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, blocks
from mpu_cli.errors import BadModelError

_MANTISSA_BITS = {"F32": 23, "BF16": 7, "F16": 10}


@dataclass(slots=True)
class GroupSize:
    """Sums over one group's entries; `spacing` is Σ 4^e with 2^e ≤ |value| < 2^(e+1)."""

    elements: int = 0
    squares: float = 0.0
    difference_squares: float = 0.0
    spacing: float = 0.0

    @property
    def rms(self) -> float:
        """RMS(θ_ℓ)."""
        return sqrt(self.squares / self.elements)

    @property
    def task_rms(self) -> float:
        """RMS(θ_ℓ − base_ℓ)."""
        return sqrt(self.difference_squares / self.elements)

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
    """Read a model once, and its base beside it, a block at a time.

    Raises:
        BadModelError: the base lacks a tensor or has another shape.
    """
    group_of = {name: group for group, names in groups.items() for name in names}
    sizes = {group: GroupSize() for group in groups}
    parts: list[tuple[TensorInfo, str]] = []
    grids = {"BF16", "F16"}
    if base is not None:
        _check_base(model, base, group_of)
    for info in model.tensors.values():
        digest = hashlib.sha256()
        group = group_of.get(info.name)
        if group is None:
            for block in blocks(info):
                digest.update(block)
        else:
            if info.dtype not in TORCH_DTYPES:
                raise BadModelError(
                    f"{info.file}: tensor {info.name} is stored as {info.dtype}",
                    "convert the checkpoint to float32, bfloat16 or float16",
                )
            start = 0
            for block in blocks(info):
                digest.update(block)
                values = torch.frombuffer(bytearray(block), dtype=TORCH_DTYPES[info.dtype]).float()
                grids = {name for name in grids if bool((values.to(TORCH_DTYPES[name]).float() == values).all())}
                if not isfinite(_add(sizes[group], values)):
                    raise BadModelError(f"{info.file}: tensor {info.name} holds NaN or infinity", "repair the model first")
                stop = start + values.numel()
                if base is not None:
                    other = read_span(base.tensors[info.name], start, stop).float()
                    squares = _squares(values - other)
                    if not isfinite(squares):
                        raise BadModelError(f"{base.path}: tensor {info.name} holds NaN or infinity", "repair the base first")
                    sizes[group].difference_squares += squares
                start = stop
        parts.append((info, digest.hexdigest()))
    grid = "BF16" if "BF16" in grids else "F16" if "F16" in grids else "F32"
    return Measured(combine(parts), model_digest(base) if base is not None else None, sizes, grid)


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


def _add(size: GroupSize, values: torch.Tensor) -> float:
    squares = _squares(values)
    size.elements += values.numel()
    size.squares += squares
    # 4^(e+1) from frexp, whose mantissa lies in [0.5, 1); a zero is stored exactly in any dtype.
    powers = torch.exp2(2.0 * torch.frexp(values).exponent - 2.0).masked_fill_(values == 0, 0.0)
    size.spacing += float(powers.sum())
    return squares


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
