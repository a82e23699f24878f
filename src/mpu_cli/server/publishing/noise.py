"""The noise of a draw, addressed by tensor and entry: any order and any blocks give the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from mpu_cli.server.secrets.randomness import NORMAL_BLOCK, IntegerStream, NormalBlocks, derive_key


def zero_sum_basis(size: int) -> np.ndarray:
    """Orthonormal columns orthogonal to the ones vector (Helmert's matrix), shape (m, m−1).

    m−1 independent draws through it have the distribution of m draws minus their mean.
    """
    basis = np.zeros((size, size - 1))
    for column in range(1, size):
        basis[:column, column - 1] = 1.0
        basis[column, column - 1] = -column
        basis[:, column - 1] /= sqrt(column * (column + 1))
    return basis


@dataclass(frozen=True, slots=True)
class NoiseDraw:
    """The noise of one draw."""

    master: bytes
    id: str
    denoising: str
    coefficients: Sequence[float]
    """α or node of each copy, by position."""
    sigma: Mapping[str, float]
    """σ by group, weight units."""
    offset_scale: Mapping[str, float]
    """Standard deviation of the offset ξ by group, weight units."""

    @property
    def size(self) -> int:
        """m, the number of copies in the draw."""
        return len(self.coefficients)

    def of(self, group: str, tensor: str) -> TensorNoise | None:
        """The noise of one tensor; None if it gets neither noise nor offset."""
        sigma, scale = self.sigma.get(group, 0.0), self.offset_scale.get(group, 0.0)
        return TensorNoise(self, tensor, sigma, scale) if sigma or scale else None

    def stream_key(self, number: int, tensor: str) -> bytes:
        """The key of one stream of standard normals, of which `mixture` makes a tensor's noise."""
        return derive_key(self.master, "noise", self.id, number, tensor)

    def mixture(self, sigma: float) -> list[tuple[list[tuple[int, float]], float]]:
        """By copy: ([(stream of standard normals, its share of ε_k)], σ α_k or σ x_k)."""
        if self.denoising == "extrapolation" or self.size == 1:
            return [([(0, 1.0)], sigma * value) for value in self.coefficients]
        basis = zero_sum_basis(self.size) * sqrt(self.size / (self.size - 1))
        return [
            ([(draw, float(share)) for draw, share in enumerate(row) if share], sigma * alpha)
            for row, alpha in zip(basis, self.coefficients, strict=True)
        ]


class TensorNoise:
    """Noise and offset of one tensor's entries; reading them in order is fastest."""

    def __init__(self, draw: NoiseDraw, tensor: str, sigma: float, scale: float) -> None:
        self.sigma, self._scale = sigma, scale
        self._mixture = draw.mixture(sigma) if sigma else []
        count = max((number + 1 for shares, _ in self._mixture for number, _ in shares), default=0)
        self._draws = [_Normals(draw.stream_key(number, tensor)) for number in range(count)]
        # The frozen offset ξ is the same in every draw of a lineage.
        self._offset = _Normals(derive_key(draw.master, "offset", tensor)) if scale else None

    def add_to(
        self, original: torch.Tensor, start: int, copies: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Write θ + ξ + α_k ε_k of every copy into `copies`.

        Args:
            original: θ's entries from entry `start` on, flattened float32.
            start: number of the first entry in the tensor.
            copies: one tensor like `original` for each copy.

        Returns:
            θ + ξ.
        """
        stop = start + len(original)
        centre = original
        if self._offset is not None:
            centre = torch.empty_like(original)
            for a, b, (offset,) in _pieces(start, stop, [self._offset]):
                torch.mul(offset, self._scale, out=centre[a:b]).add_(original[a:b])
        if not self._mixture:
            for copy in copies:
                copy.copy_(centre)
            return centre
        epsilon = torch.empty(NORMAL_BLOCK)
        # One piece at a time stays in the processor's cache. ε_k is summed first, so that adding θ
        # rounds once.
        for a, b, draws in _pieces(start, stop, self._draws):
            mixed = epsilon[: b - a]
            for copy, (((first, share), *others), size) in zip(copies, self._mixture, strict=True):
                torch.mul(draws[first], share, out=mixed)
                for other, part in others:
                    mixed.add_(draws[other], alpha=part)
                torch.add(mixed.mul_(size), centre[a:b], out=copy[a:b])
        return centre


class _Normals:
    """One stream of normals that keeps its latest block, which neighbouring pieces share."""

    def __init__(self, key: bytes) -> None:
        self._stream, self._number, self._block = NormalBlocks(key), -1, torch.empty(NORMAL_BLOCK)

    def block(self, number: int) -> torch.Tensor:
        if number != self._number:
            self._number, self._block = number, self._stream.block(number, self._block)
        return self._block


def _pieces(
    start: int, stop: int, streams: Sequence[_Normals]
) -> Iterator[tuple[int, int, list[torch.Tensor]]]:
    """Cut start..stop at the streams' blocks.

    Yields:
        First and last entry relative to `start`, and the values of every stream there.
    """
    for number in range(start // NORMAL_BLOCK, -(-stop // NORMAL_BLOCK)):
        first = number * NORMAL_BLOCK
        low, high = max(start, first), min(stop, first + NORMAL_BLOCK)
        yield (
            low - start,
            high - start,
            [stream.block(number)[low - first : high - first] for stream in streams],
        )


def dealt(master: bytes, draw_id: str, values: Sequence[float]) -> tuple[float, ...]:
    """Deal default coefficients to the copies in a secret order."""
    order = IntegerStream(derive_key(master, "order", draw_id)).permutation(len(values))
    return tuple(values[index] for index in order)
