"""Norms and products of the copies' changes by tensor, summed while the changes are read once.

All of them are of T_k⁻¹(Δ_k), so they speak of θ's own tensors and rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isnan, nan, sqrt

import torch

Gram = Sequence[Sequence[float]]
"""⟨Δ_i, Δ_j⟩ of the copies, (m, m)."""

_NARROW = 2
"""A tensor with fewer columns has no rows to look at one by one: it is a vector."""


@dataclass(slots=True)
class TensorStatistics:
    """One tensor of θ over the copies of a draw."""

    gram: list[list[float]]
    """⟨Δ_i, Δ_j⟩ of the copies, (m, m); 0 for a copy that did not change the tensor."""
    moved: bool
    """Whether T moves the tensor, so that swapped copies disagree on it."""
    elements: int
    rows: int
    """Rows of the tensor; 0 for a vector."""
    row_squares: list[float]
    """The largest square of the norm of one row, by copy."""
    row_numbers: list[int]
    """Which row that is, by copy."""

    @classmethod
    def empty(cls, copies: int, rows: int, columns: int, *, moved: bool) -> TensorStatistics:
        """Nothing read yet."""
        gram = [[0.0] * copies for _ in range(copies)]
        kept = rows if columns >= _NARROW else 0
        return cls(gram, moved, rows * columns, kept, [0.0] * copies, [0] * copies)

    def add(self, start: int, columns: int, changes: Mapping[int, torch.Tensor]) -> None:
        """Add the rows from `start`: by copy, flattened float32."""
        for i, first in changes.items():
            for j, second in changes.items():
                if j <= i:
                    product = float(torch.dot(first, second))
                    self.gram[i][j] += product
                    if i != j:
                        self.gram[j][i] += product
            if self.rows:
                norms = torch.linalg.vector_norm(first.view(-1, columns), dim=1)
                largest = int(torch.argmax(norms))
                square = float(norms[largest]) ** 2
                if not square <= self.row_squares[i]:
                    self.row_squares[i], self.row_numbers[i] = square, start + largest

    def norms(self) -> list[float]:
        """‖Δ_k‖ by copy."""
        return [sqrt(self.gram[k][k]) for k in range(len(self.gram))]

    def largest_row(self) -> tuple[float, int, int]:
        """The largest square of the norm of a row, which row, and of which copy."""
        return max(
            (square, row, copy)
            for copy, (square, row) in enumerate(
                zip(self.row_squares, self.row_numbers, strict=True)
            )
        )

    def mean_norm(self, weights: Sequence[float]) -> float:
        """‖Σ_k w_k Δ_k‖: what enters the model."""
        square = sum(
            a * b * value
            for a, row in zip(weights, self.gram, strict=True)
            for b, value in zip(weights, row, strict=True)
        )
        return nan if isnan(square) else sqrt(max(0.0, square))


@dataclass(slots=True)
class DrawStatistics:
    """All changed tensors of one draw, by θ's names."""

    copies: int
    tensors: dict[str, TensorStatistics] = field(default_factory=dict)

    def total(self, *, moved_only: bool = False) -> Gram:
        """The Gram matrix over all tensors, or over those that T moves."""
        every = [item for item in self.tensors.values() if item.moved or not moved_only]
        return [
            [sum(item.gram[i][j] for item in every) for j in range(self.copies)]
            for i in range(self.copies)
        ]

    def agreement(self) -> float | None:
        """The lowest pairwise cosine of the copies' changes; None with one copy or no change.

        Over the tensors that T moves, on which swapped copies disagree; over all where T moves
        none that changed.
        """
        value = lowest_cosine(self.total(moved_only=True))
        return lowest_cosine(self.total()) if value is None else value


def cosine(gram: Gram, i: int, j: int) -> float | None:
    """The cosine of two copies' changes: 0 where one of them is none, None where both are."""
    first, second = sqrt(max(gram[i][i], 0.0)), sqrt(max(gram[j][j], 0.0))
    if not first and not second:
        return None
    return gram[i][j] / (first * second) if first and second else 0.0


def lowest_cosine(gram: Gram) -> float | None:
    """The lowest pairwise cosine; None with one copy or no change at all.

    NaN where a number is not finite.
    """
    if not any(gram[k][k] for k in range(len(gram))):
        return None
    pairs = [cosine(gram, i, j) for i in range(len(gram)) for j in range(i)]
    known = [0.0 if value is None else value for value in pairs]
    if any(isnan(value) for value in known):
        return nan
    return min(known, default=None)


def largest_ratio(
    gram: Gram, copies: Collection[int] | None = None, allowed: float = 0.0
) -> tuple[float, int, int] | None:
    """(‖Δ_i‖ - allowed) / ‖Δ_j‖ of the largest and the smallest change among copies, i and j.

    Args:
        gram: ⟨Δ_i, Δ_j⟩.
        copies: those to compare; without it all that changed anything.
        allowed: what rounding may add to the larger norm.

    Returns:
        None with fewer than two copies, or without a change.
    """
    norms = {k: sqrt(gram[k][k]) for k in range(len(gram))}
    if copies is None:
        copies = [k for k, norm in norms.items() if norm]
    if len(copies) < 2 or not any(norms[k] for k in copies):
        return None
    larger, smaller = max(copies, key=norms.__getitem__), min(copies, key=norms.__getitem__)
    excess, least = max(norms[larger] - allowed, 0.0), norms[smaller]
    return (excess / least if least else inf if excess else 0.0), larger, smaller
