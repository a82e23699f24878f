"""The scalars of a draw and the weights that cancel its noise.

* harmonic (arXiv 2602.23798): copies θ + α_k ε_k with Σ ε_k = 0, weights w_k ∝ 1/α_k. The error
  is of second order.
* extrapolation (zero-noise extrapolation; Temme, Bravyi, Gambetta 2017; Li and Benjamin 2017):
  copies θ + x_k ε in one direction, weights of Lagrange's polynomial at zero,
  w_k = Π_{j≠k} x_j / (x_j − x_k). The error is of order m.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt

from mpu_cli.errors import UsageError

SMALLEST, LARGEST = 1e-6, 1e6
"""Bounds of an α and of a node's magnitude: beyond them weights leave the range of float32."""
_DEFAULT_NODES = {2: (1.0, -1.0), 3: (1.0, -1.0, 2.0), 4: (1.0, -1.0, 1.5, -1.5)}


def default_coefficients(denoising: str, size: int) -> tuple[float, ...]:
    """The default α (1 … 2 in equal steps) or nodes of m copies.

    Raises:
        UsageError: extrapolation with one copy, or with more than four copies.
    """
    if denoising == "harmonic":
        return tuple(1.0 + index / (size - 1) for index in range(size)) if size > 1 else (1.0,)
    if size < 2:
        raise UsageError(
            "--denoising extrapolation needs at least two copies", "give --copies 2 or more"
        )
    if size not in _DEFAULT_NODES:
        raise UsageError(
            f"--denoising extrapolation has no default nodes for {size} copies", "give --nodes"
        )
    return _DEFAULT_NODES[size]


def check_coefficients(denoising: str, values: Sequence[float]) -> None:
    """Raise UsageError unless every α is positive, or the nodes are distinct and not zero."""
    if denoising == "harmonic" and not all(SMALLEST <= value <= LARGEST for value in values):
        raise UsageError(
            f"--alphas: every alpha must be a positive number, from {SMALLEST:g} to {LARGEST:g}"
        )
    if denoising == "extrapolation":
        if len(values) < 2:
            raise UsageError(
                "--denoising extrapolation needs at least two copies", "give --copies 2 or more"
            )
        if not all(SMALLEST <= abs(value) <= LARGEST for value in values) or len(set(values)) < len(
            values
        ):
            raise UsageError(
                "--nodes: nodes must be distinct and not zero, with magnitudes from"
                f" {SMALLEST:g} to {LARGEST:g}"
            )


def weights(denoising: str, coefficients: Sequence[float]) -> tuple[float, ...]:
    """The weights of copies with these α or nodes; they sum to one."""
    if denoising == "harmonic":
        total = sum(1 / alpha for alpha in coefficients)
        return tuple(1 / alpha / total for alpha in coefficients)
    return tuple(
        prod(other / (other - node) for j, other in enumerate(coefficients) if j != k)
        for k, node in enumerate(coefficients)
    )


def residual_noise(denoising: str, coefficients: Sequence[float], present: Sequence[int]) -> float:
    """First-order noise that the copies at `present` leave, as a multiple of σ.

    It is 0 if all copies are present (and m > 1).
    """
    size = len(coefficients)
    values = [coefficients[index] for index in present]
    if denoising == "extrapolation":
        return abs(sum(w * x for w, x in zip(weights(denoising, values), values, strict=True)))
    if size == 1:
        return values[0]
    # Σ_{k in P} ε_k has variance m/(m−1) · |P| (1 − |P|/m) σ².
    total = sum(1 / alpha for alpha in values)
    count = len(values)
    return sqrt(max(0.0, size / (size - 1) * count * (1 - count / size))) / total


def error_order(denoising: str, size: int, *, offset: bool) -> int:
    """The power of the noise with which the error of a smooth update grows."""
    if offset or size == 1:
        return 1
    return 2 if denoising == "harmonic" else size
