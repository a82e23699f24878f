"""Optimal shrinkage of singular values: noise spreads over all of them, a task vector over few.

The noise level is read off the spectrum itself: that of white noise follows Marchenko and Pastur's
law, so one quantile of the singular values gives it. Gavish and Donoho take the median, which a
task vector of full rank raises; a low quantile is raised less, so it is tried too, and shares of
it. All tensors of a layer have the same noise, and a task vector can only raise the level, so the
smallest level found in a layer is used for all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import sqrt

import numpy as np
import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import Attack, Estimate
from mpu_cli.audit.handoff.attacks._residual import SMALLEST_SIDE, on_base, residual
from mpu_cli.audit.handoff.attacks._weights import FittingAttacker

_LEVELS = {
    "the median": (0.5, 1.0),
    "the lowest twentieth": (0.05, 1.0),
    "the lowest twentieth, two thirds of it": (0.05, 2 / 3),
    "the lowest twentieth, a third of it": (0.05, 1 / 3),
}
"""The quantile of the singular values, and the share of the level that it gives."""
_LARGEST_SIDE = 2048
"""A matrix with more rows and columns is cut: no part has a higher rank, and time stays bounded."""


@dataclass(frozen=True, slots=True)
class SingularValues:
    """A matrix of n rows and p ≥ n columns, by its singular values."""

    matrix: torch.Tensor
    """(n, p) float64."""
    values: torch.Tensor
    """(n,), ascending."""
    vectors: torch.Tensor
    """Of the rows, (n, n), a column for each value."""

    @classmethod
    def of(cls, matrix: torch.Tensor) -> SingularValues:
        """By the eigenvalues of the products of rows: much faster than an SVD of a wide matrix."""
        squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
        return cls(matrix, squares.clamp(min=0).sqrt(), vectors)

    def noise(self, quantile: float) -> float:
        """The standard deviation of white noise with this quantile of the singular values."""
        rows, columns = self.matrix.shape
        expected = columns * marchenko_pastur(round(rows / columns, 4), quantile)
        return float(self.values.quantile(quantile)) / sqrt(expected)

    def shrunk(self, noise: float) -> torch.Tensor:
        """The matrix nearest to what was there before the noise, by Frobenius' norm."""
        rows, columns = self.matrix.shape
        if not noise:
            return self.matrix
        ratio, values = rows / columns, self.values / (noise * columns**0.5)
        above = ((values.square() - ratio - 1).square() - 4 * ratio).clamp(min=0).sqrt()
        kept = torch.where(values > 1 + ratio**0.5, above / values.square().clamp(min=1e-300), 0.0)
        return self.vectors @ (kept[:, None] * (self.vectors.T @ self.matrix))


@cache
def marchenko_pastur(ratio: float, quantile: float) -> float:
    """The quantile of the eigenvalues of (1/p) XXᵀ, X of np × p standard normals, n/p = `ratio`.

    With λ = 1 + β + 2√β cos t the density is 2 sin²t / (πλ), smooth also at β = 1.
    """
    turn = np.linspace(np.pi, 0, 20_001)
    values = 1 + ratio + 2 * ratio**0.5 * np.cos(turn)
    density = np.sin(turn) ** 2 / np.maximum(values, 1e-12)
    if ratio == 1:
        density[0] = 1.0  # the limit at λ = 0, where both vanish
    sums = np.cumsum(density)
    return float(np.interp(quantile, sums / sums[-1], values))


def spectra(tensor: torch.Tensor) -> list[SingularValues]:
    """Of every matrix in the tensor, cut into parts of at most `_LARGEST_SIDE` rows."""
    found = []
    for matrix in tensor.reshape(-1, *tensor.shape[-2:]):
        wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
        parts = -(-wide.shape[0] // _LARGEST_SIDE)
        found += [SingularValues.of(part) for part in wide.chunk(parts)]
    return found


def rebuilt(tensor: torch.Tensor, parts: list[SingularValues], noise: float) -> torch.Tensor:
    """The tensor from the shrunk parts of its matrices, as `spectra` cut them."""
    *_, rows, columns = tensor.shape
    wide = torch.cat([part.shrunk(noise) for part in parts]).reshape(
        -1, min(rows, columns), max(rows, columns)
    )
    return (wide.mT if rows > columns else wide).reshape(tensor.shape)


class _Shrinkage(FittingAttacker):
    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """One for each quantile from which the noise is read."""
        moved = residual(layer, self._fitted)
        parts = {
            name: spectra(tensor)
            for name, tensor in moved.items()
            if tensor.ndim > 1 and min(tensor.shape[-2:]) >= SMALLEST_SIDE
        }
        if not parts:
            return
        for how, (quantile, share) in _LEVELS.items():
            noise = share * min(part.noise(quantile) for found in parts.values() for part in found)

            def shrink(name: str, noise: float = noise) -> torch.Tensor | None:
                return rebuilt(moved[name], parts[name], noise) if name in parts else None

            tensors = on_base(layer, moved, shrink, noise**2)
            yield Estimate(f"noise read from {how}", tensors, noisy=True)


ATTACK = Attack(
    "singular values",
    "keep of each matrix of (copy − base) what stands out of the noise's singular values: a task"
    " vector of low rank, such as a merged LoRA, comes back",
    "Gavish and Donoho, 'Optimal Shrinkage of Singular Values' (IEEE Trans. Inf. Theory 63, 2017)",
    lambda pool: _Shrinkage(pool) if pool.has_base else None,
)
