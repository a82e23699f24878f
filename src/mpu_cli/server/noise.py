"""The perturbations of a draw, addressed by tensor and entry, in any order and any blocking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from mpu_cli.server.randomness import IntegerStream, derive_key, normals


def zero_sum_basis(size: int) -> np.ndarray:
    """(m, m−1) orthonormal columns that are orthogonal to the ones vector (Helmert's matrix).

    m−1 independent draws through it have the distribution of m draws minus their mean, and cost one draw less.
    """
    basis = np.zeros((size, size - 1))
    for column in range(1, size):
        basis[:column, column - 1] = 1.0
        basis[column, column - 1] = -column
        basis[:, column - 1] /= sqrt(column * (column + 1))
    return basis


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of noise: `coefficients` are α or nodes by position, σ and the offset's scale are by group."""

    master: bytes
    id: str
    denoising: str
    coefficients: Sequence[float]
    sigma: Mapping[str, float]
    offset_scale: Mapping[str, float]

    @property
    def size(self) -> int:
        """m, the number of copies in the draw."""
        return len(self.coefficients)

    def offset(self, group: str, tensor: str, start: int, stop: int) -> torch.Tensor | None:
        """Entries of the frozen offset ξ, float32; None where there is none. The same in every draw of a lineage."""
        scale = self.offset_scale.get(group, 0.0)
        if scale == 0.0:
            return None
        return normals(derive_key(self.master, "offset", tensor), start, stop).mul_(scale)

    def perturbations(self, group: str, tensor: str, start: int, stop: int) -> list[torch.Tensor] | None:
        """α_k ε_k (or x_k ε) of every copy, each (stop − start,) float32; None where σ is zero."""
        sigma = self.sigma.get(group, 0.0)
        if sigma == 0.0:
            return None
        if self.denoising == "extrapolation" or self.size == 1:
            epsilon = self._normals(0, tensor, start, stop)
            return [epsilon * (sigma * value) for value in self.coefficients]
        draws = [self._normals(index, tensor, start, stop) for index in range(self.size - 1)]
        basis = zero_sum_basis(self.size) * sqrt(self.size / (self.size - 1))
        result = []
        for row, alpha in zip(basis, self.coefficients, strict=True):
            epsilon = torch.zeros_like(draws[0])
            for share, values in zip(row, draws, strict=True):
                if share:
                    epsilon.add_(values, alpha=float(share))
            result.append(epsilon.mul_(sigma * alpha))
        return result

    def _normals(self, index: int, tensor: str, start: int, stop: int) -> torch.Tensor:
        return normals(derive_key(self.master, "noise", self.id, index, tensor), start, stop)


def dealt(master: bytes, draw_id: str, values: Sequence[float]) -> tuple[float, ...]:
    """Deal default coefficients to the copies in a secret order."""
    order = IntegerStream(derive_key(master, "order", draw_id)).permutation(len(values))
    return tuple(values[index] for index in order)
