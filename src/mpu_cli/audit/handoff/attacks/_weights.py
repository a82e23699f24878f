"""The weights with which an attacker combines copies, from their Gram matrix alone.

The Gram matrix G is of (copy − base), or of the copies without a base; weights w sum to one, so
that Σ w_k copy_k is the model plus noise, and wᵀGw is the squared size of that sum. Noise and model
are unrelated, so the weights that cancel the noise have the smallest wᵀGw, but for a random product
of about 1/√N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import numpy as np
import torch
from scipy.optimize import least_squares

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import CopyPool
from mpu_cli.server.denoising import default_coefficients
from mpu_cli.server.denoising import weights as weights_of

_MOST_ORDERED = 6
"""The largest draw of which all orders of the default α are tried: 720."""
_SINGULAR = 1e-9
"""Eigenvalues of G below this share of the largest are rounding."""
_MOST_NODES = 4
"""The largest extrapolation with default nodes."""
Solve = Callable[[np.ndarray], np.ndarray | None]
"""From the Gram matrix of one draw's copies to their weights; None if it does not apply."""


class FittedWeights:
    """Weights of the copies of a pool, fitted while layers are observed."""

    def __init__(self, pool: CopyPool) -> None:
        self._pool, self._gram = pool, np.zeros((pool.size, pool.size))
        self._fitted: dict[str, np.ndarray] | None = None

    def observe(self, layer: AlignedLayer) -> None:
        """Add a layer; all count alike, whatever the size of their weights."""
        self._gram += layer.scale * layer.gram

    def weights(self) -> dict[str, np.ndarray]:
        """By how they were found, weights that sum to one, (copies,)."""
        if self._fitted is None:
            self._fitted = {"least squares": smallest(self._gram)}
            for name, draws in self._draws().items():
                for how, weights in _of_draws(self._gram, draws).items():
                    self._fitted[f"{how}{name}"] = weights
        return self._fitted

    def _draws(self) -> dict[str, list[list[int]]]:
        """What the attacker takes for whole draws: all copies together, or each handoff's."""
        everything = [list(range(self._pool.size))]
        numbers = sorted(set(self._pool.handoffs))
        by_handoff = [
            [copy for copy, held in enumerate(self._pool.handoffs) if held == number]
            for number in numbers
        ]
        if len(numbers) == 1:
            return {"": everything}
        return {"": everything, ", each handoff a draw": by_handoff}


class FittingAttacker:
    """An attacker that fits weights in its first pass; the second pass is its own."""

    def __init__(self, pool: CopyPool) -> None:
        self._fitted = FittedWeights(pool)

    def observe(self, layer: AlignedLayer) -> None:
        """Fit the weights of the copies."""
        self._fitted.observe(layer)


def combined(layer: AlignedLayer, weights: np.ndarray) -> dict[str, torch.Tensor]:
    """Σ w_k copy_k, float64."""
    return {
        name: sum(
            (
                float(weight) * copy[name].double()
                for weight, copy in zip(weights, layer.copies, strict=True)
            ),
            start=torch.zeros(()).double(),
        )
        for name in layer.copies[0]
    }


def smallest(gram: np.ndarray) -> np.ndarray:
    """The w of sum one with the smallest wᵀGw: G⁻¹1 / (1ᵀG⁻¹1)."""
    solved = np.linalg.pinv(gram, rcond=_SINGULAR, hermitian=True).sum(axis=1)
    total = solved.sum()
    even = np.full(len(gram), 1 / len(gram))
    return solved / total if abs(total) > 1e-12 * np.abs(solved).sum() else even


def _of_draws(gram: np.ndarray, draws: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """Weights that take the noise of each draw for perturb's, then least squares over the draws."""
    found: dict[str, np.ndarray] = {}
    if not any(len(draw) > 1 for draw in draws):
        return found
    for how, solve in _KNOWN.items():
        rows = np.zeros((len(draws), len(gram)))
        for row, draw in zip(rows, draws, strict=True):
            inner = gram[np.ix_(draw, draw)]
            weights = solve(inner) if len(draw) > 1 else np.ones(1)
            if weights is None:
                break
            row[list(draw)] = weights
        else:
            found[how] = smallest(rows @ gram @ rows.T) @ rows
    return found


def _default(denoising: str, *, backwards: bool = False) -> Solve:
    """The weights of the default α or nodes, in the order that explains the copies' distances."""

    def solve(gram: np.ndarray) -> np.ndarray | None:
        size = len(gram)
        if size > _MOST_ORDERED or (denoising == "extrapolation" and size > _MOST_NODES):
            return None
        scales = default_coefficients(denoising, size)
        if size == 2:  # one distance says nothing about the order
            return np.array(weights_of(denoising, scales[::-1] if backwards else scales))
        if backwards:
            return None
        apart = _distances(gram)
        orders = list(permutations(scales))
        wrong = [_misfit(_expected(denoising, np.array(order)), apart) for order in orders]
        return np.array(weights_of(denoising, orders[int(np.argmin(wrong))]))

    return solve


def _by_distances(gram: np.ndarray) -> np.ndarray | None:
    """The harmonic weights of the α that explain how far each two copies lie apart.

    This needs neither the base nor the model. Three copies have three distances for three unknowns.
    """
    size = len(gram)
    if size < 3:
        return None
    apart = _distances(gram)
    scale = float(apart.mean())
    if scale <= 0:
        return None

    def wrong(scales: np.ndarray) -> np.ndarray:
        return _expected("harmonic", scales) - apart / scale

    fit = least_squares(wrong, np.full(size, 0.5), bounds=(1e-6, np.inf), xtol=1e-12, ftol=1e-12)
    return np.array(weights_of("harmonic", fit.x.tolist()))


def _distances(gram: np.ndarray) -> np.ndarray:
    """Squared distances of each two copies, (pairs,)."""
    first, second = np.triu_indices(len(gram), 1)
    return np.asarray(gram[first, first] + gram[second, second] - 2 * gram[first, second])


def _expected(denoising: str, scales: np.ndarray) -> np.ndarray:
    """The same of perturb's noise, in units of σ² N.

    Zero-sum noise has correlation −1/(m − 1); that of an extrapolation is the same in all copies.
    """
    first, second = np.triu_indices(len(scales), 1)
    a, b = scales[first], scales[second]
    if denoising == "extrapolation":
        return np.asarray((a - b) ** 2)
    return np.asarray(a**2 + b**2 + 2 * a * b / (len(scales) - 1))


def _misfit(expected: np.ndarray, apart: np.ndarray) -> float:
    """What is left of the distances after the best scale."""
    share = float(expected @ apart) / float(expected @ expected)
    return float(np.square(apart - share * expected).sum())


_KNOWN: dict[str, Solve] = {
    "mean": lambda gram: np.full(len(gram), 1 / len(gram)),
    "default α": _default("harmonic"),
    "default α, the other order": _default("harmonic", backwards=True),
    "default nodes": _default("extrapolation"),
    "α from distances": _by_distances,
}
