"""The perturbations of a draw, addressed by tensor and entry, in any order and any blocking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from mpu_cli.server.randomness import NORMAL_BLOCK, IntegerStream, derive_key, normals


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

    def of(self, group: str, tensor: str) -> TensorNoise | None:
        """The noise of one tensor; None where it gets neither perturbation nor offset."""
        sigma, scale = self.sigma.get(group, 0.0), self.offset_scale.get(group, 0.0)
        return TensorNoise(self, tensor, sigma, scale) if sigma or scale else None

    def shares(self) -> np.ndarray:
        """(m, draws): α_k ε_k (or x_k ε) of every copy as a sum of independent standard normal draws, in units of σ."""
        coefficients = np.asarray(self.coefficients, dtype=np.float64)[:, None]
        if self.denoising == "extrapolation" or self.size == 1:
            return coefficients
        mixed: np.ndarray = coefficients * zero_sum_basis(self.size) * sqrt(self.size / (self.size - 1))
        return mixed


class TensorNoise:
    """Perturbations and offset of one tensor's entries, drawn in blocks that are read in any pieces, best in order."""

    def __init__(self, draw: Draw, tensor: str, sigma: float, scale: float) -> None:
        self.sigma, self._scale = sigma, scale
        self._shares = draw.shares() * sigma
        keys = [derive_key(draw.master, "noise", draw.id, index, tensor) for index in range(self._shares.shape[1] if sigma else 0)]
        self._draws = [_Normals(key) for key in keys]
        self._copies = draw.size
        # The frozen offset ξ is the same in every draw of a lineage.
        self._offset = _Normals(derive_key(draw.master, "offset", tensor)) if scale else None

    def add_to(self, original: torch.Tensor, start: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """θ + ξ, and θ + ξ + α_k ε_k of every copy, for θ's entries from `start` on: float32, shape (entries,)."""
        stop = start + len(original)
        centre = original
        if self._offset is not None:
            centre = torch.empty_like(original)
            for a, b, (offset,) in _pieces(start, stop, [self._offset]):
                torch.add(original[a:b], offset, alpha=self._scale, out=centre[a:b])
        if not self._draws:
            return centre, [centre] * self._copies
        copies = [torch.empty_like(original) for _ in range(self._copies)]
        # A piece at a time, so that it stays in the processor's cache.
        for a, b, draws in _pieces(start, stop, self._draws):
            for copy, shares in zip(copies, self._shares, strict=True):
                terms = [(float(share), values) for share, values in zip(shares, draws, strict=True) if share]
                before = centre[a:b]
                for share, values in terms:
                    torch.add(before, values, alpha=share, out=copy[a:b])
                    before = copy[a:b]
        return centre, copies


class _Normals:
    """One stream of normals that remembers its latest block: neighbouring pieces share one."""

    def __init__(self, key: bytes) -> None:
        self._key, self._number, self._block = key, -1, torch.empty(0)

    def block(self, number: int) -> torch.Tensor:
        if number != self._number:
            self._number, self._block = number, normals(self._key, number * NORMAL_BLOCK, (number + 1) * NORMAL_BLOCK)
        return self._block


def _pieces(start: int, stop: int, streams: Sequence[_Normals]) -> Iterator[tuple[int, int, list[torch.Tensor]]]:
    """Cut start..stop at the streams' blocks: (from, to) relative to `start`, and each stream's values there."""
    for number in range(start // NORMAL_BLOCK, -(-stop // NORMAL_BLOCK)):
        first = number * NORMAL_BLOCK
        low, high = max(start, first), min(stop, first + NORMAL_BLOCK)
        yield low - start, high - start, [stream.block(number)[low - first : high - first] for stream in streams]


def dealt(master: bytes, draw_id: str, values: Sequence[float]) -> tuple[float, ...]:
    """Deal default coefficients to the copies in a secret order."""
    order = IntegerStream(derive_key(master, "order", draw_id)).permutation(len(values))
    return tuple(values[index] for index in order)
