"""Weights with which the copies of two rounds differ least."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_SINGULAR = 1e-12
"""Eigenvalues of the scaled products below this share of the largest are float32's rounding."""


def smallest_difference(
    gram: np.ndarray, older: Sequence[int], newer: Sequence[int], free: Sequence[int] = ()
) -> np.ndarray:
    """The x with the smallest xᵀGx that sums to −1 over `older` and to 1 over `newer`.

    Args:
        gram: products of the vectors, or of (vector − base) for those of the rounds.
        older: numbers of the copies of the older round.
        newer: of the newer one.
        free: of vectors that may have any weight, such as known parts of the difference.
    """
    start, steps = np.zeros(len(gram)), []
    for numbers, total in ((older, -1.0), (newer, 1.0)):
        start[list(numbers)] = total / len(numbers)
        for number in numbers[1:]:
            step = np.zeros(len(gram))
            step[[numbers[0], number]] = -1.0, 1.0
            steps.append(step)
    steps += [np.eye(len(gram))[number] for number in free]
    if not steps:
        return start
    along = np.stack(steps, axis=1)
    inner, right = along.T @ gram @ along, along.T @ gram @ start
    scale = np.sqrt(np.maximum(np.diag(inner), 1e-300))
    solve = np.linalg.pinv(inner / np.outer(scale, scale), rcond=_SINGULAR, hermitian=True)
    return np.asarray(start - along @ ((solve @ (right / scale)) / scale))


def copies_of(rounds: Sequence[int]) -> tuple[list[int], list[int]]:
    """The numbers of the copies of the older and of the newer of two rounds."""
    older, newer = sorted(set(rounds))
    return (
        [copy for copy, number in enumerate(rounds) if number == older],
        [copy for copy, number in enumerate(rounds) if number == newer],
    )
