"""Test whether the noise of a draw's copies is in a model, and how much of each.

A model's weights, with everything removed that the public and the server's models explain, are the
*residual* r. In each tensor the residual of a copy is r = σ Σ_j a_j n_j + e, with the draw's
standard normals n_j. Their coefficients a are fitted by least squares, where each tensor has the
weight 1/mean(r²), so that large weights do not dominate. Copy k with share s contributes s times
its row of the draw's mixture to a.

The test of a direction u (a unit vector) in the space of the normals is z = Σ_t σ_t w_t ⟨r_t, u·n⟩
/ ‖σ w r‖. If the model is independent of the noise, z is standard normal, exactly and for any r.
The copies of a draw are correlated (their noise sums to zero), so they are chosen one after the
other: once a copy is chosen, the others are tested only along what its noise does not explain,
which is again exact, because those directions are independent of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from mpu_cli.audit.trace.suspects import Array

_TIE = 1e-6
"""Copies whose z differ by less, relatively, have parallel noise: the noise cannot tell them."""
_PARALLEL = 1e-9


@dataclass(frozen=True, slots=True)
class Trace:
    """One copy whose noise was found."""

    position: int
    z: float
    share: float
    """How much of the copy is in the model: 1 for the copy itself, .5 in an average of two."""
    error: float
    """Standard error of the share."""
    equals: tuple[int, ...]
    """Positions of other copies that would explain the same noise, with another share."""


class NoiseEvidence:
    """Sums over the tensors of one model in one frame, for one draw of s streams."""

    def __init__(self, streams: int) -> None:
        self._score, self._second = np.zeros(streams), np.zeros(streams)
        self._gram, self._fourth = np.zeros((streams, streams)), np.zeros((streams, streams))
        self._square = self._power = 0.0

    @property
    def streams(self) -> int:
        """Number of the draw's streams of standard normals, s."""
        return len(self._score)

    def add(self, sigma: float, residual: Array, mean: float, normals: Array, gram: Array) -> None:
        """Add a piece of a tensor.

        Args:
            sigma: σ of the draw in this tensor, weight units.
            residual: (n,).
            mean: mean square of the residual, which is the piece's weight.
            normals: (s, n), the draw's standard normals at these entries.
            gram: normals · normalsᵀ.
        """
        weight = 1.0 / mean
        products = normals @ residual
        self._score += sigma * weight * products
        self._second += sigma**3 * weight**2 * products
        self._gram += sigma**2 * weight * gram
        self._fourth += sigma**4 * weight**2 * gram
        self._square += sigma**2 * weight**2 * float(residual @ residual)
        self._power += sigma**2 * weight * len(residual)

    def expected(self, mixture: Array) -> Array:
        """The z that each copy would have if all of it were in the residual as it is, (m,)."""
        if not self._square:
            return np.zeros(len(mixture))
        sizes: Array = np.linalg.norm(mixture, axis=1)
        return sizes * (self._power / sqrt(self._square))

    def scores(self, mixture: Array) -> list[float]:
        """The z of each copy by itself; empty if nothing was read."""
        return [z for z, _ in self._tests(mixture, [])]

    def explain(self, mixture: Array, threshold: float, own: int | None) -> list[Trace]:
        """Name the copies whose z passes the threshold, the clearest first.

        Args:
            mixture: (m, s), of the draw.
            threshold: what z must pass.
            own: the copy whose reparameterization was undone, if any: it wins a tie.
        """
        chosen: list[int] = []
        found: list[tuple[float, tuple[int, ...]]] = []
        while True:
            tests = sorted(self._tests(mixture, chosen), reverse=True)
            if not tests or tests[0][0] < threshold:
                break
            ties = [position for z, position in tests if z > tests[0][0] * (1 - _TIE)]
            best = self._preferred(mixture, chosen, ties, own)
            found.append((tests[0][0], tuple(k for k in sorted(ties) if k != best)))
            chosen.append(best)
        if not chosen:
            return []
        shares, errors = self._shares(mixture, chosen)
        return [
            Trace(position, z, share, error, equals)
            for position, (z, equals), share, error in zip(
                chosen, found, shares.tolist(), errors.tolist(), strict=True
            )
        ]

    def _tests(self, mixture: Array, chosen: list[int]) -> list[tuple[float, int]]:
        """(z, position) of every copy that the chosen ones leave a direction to."""
        shares = self._shares(mixture, chosen)[0] if chosen else np.zeros(0)
        fitted = shares @ mixture[chosen]
        score = self._score - self._gram @ fitted
        square = self._square - 2 * fitted @ self._second + fitted @ self._fourth @ fitted
        if not square > 0:
            return []
        basis = np.linalg.qr(mixture[chosen].T)[0] if chosen else np.zeros((len(score), 0))
        tests = []
        for position, row in enumerate(mixture):
            direction = row - basis @ (basis.T @ row)
            size = float(np.linalg.norm(direction))
            if position not in chosen and size > _PARALLEL * float(np.linalg.norm(row)):
                tests.append((float(direction @ score) / (size * sqrt(square)), position))
        return tests

    def _preferred(
        self, mixture: Array, chosen: list[int], ties: list[int], own: int | None
    ) -> int:
        """Of copies with parallel noise: the frame's own, or the one whose share is nearest 1."""
        if own in ties:
            return own
        return min(ties, key=lambda k: abs(self._shares(mixture, [*chosen, k])[0][-1] - 1))

    def _shares(self, mixture: Array, chosen: list[int]) -> tuple[Array, Array]:
        """Shares of the chosen copies by least squares, and their standard errors."""
        rows = mixture[chosen]
        inverse = np.linalg.pinv(rows @ self._gram @ rows.T)
        shares = inverse @ (rows @ self._score)
        fitted = shares @ rows
        square = self._square - 2 * fitted @ self._second + fitted @ self._fourth @ fitted
        covariance = inverse @ (rows @ rows.T) @ inverse * max(square, 0.0)
        return shares, np.sqrt(np.diag(covariance))
