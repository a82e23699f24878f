"""What an attacker makes of one copy with an offset, when the offset's covariance is known.

Shared by structured_offset.py, not a benchmark itself. No attack gets the task vector: each gets
what it saw, the variance S of the offset's entries in the eigenbasis, and the energies e, which an
attacker can compute from S. Coordinates are those of the basis; that changes no norm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from offset_shape import block_mean, block_of
from torch import Tensor

RANKS = (8, 32)


@dataclass(frozen=True)
class Seen:
    """One matrix, (O, I) each."""

    copy: Tensor
    """Copy − base."""
    noise: Tensor
    """S."""
    energy: Tensor
    """e."""
    sibling: Tensor | None = None
    """Sibling − base, of a model that the attacker fine-tuned from the same base."""


def linear(seen: Seen) -> Tensor:
    """One factor for the whole matrix."""
    energy, noise = float(seen.energy.sum()), float(seen.noise.sum())
    return seen.copy * (energy / max(energy + noise, 1e-30))


def wiener(seen: Seen) -> Tensor:
    """Every entry times e / (e + S)."""
    return _around(seen, torch.zeros_like(seen.copy), seen.energy)


def refined(seen: Seen) -> Tensor:
    """Wiener, with energies scaled by row and by column as the copy's own squares suggest."""
    energy = seen.energy
    for axis in (1, 0):
        weight = 1 / (seen.noise + seen.energy).square().clamp(min=1e-30)
        surplus = ((seen.copy.square() - seen.noise) * energy * weight).sum(axis, keepdim=True)
        expected = (energy.square() * weight).sum(axis, keepdim=True)
        doubt = 1 / expected.clamp(min=1e-30)  # half the variance of surplus / expected
        ratio = (surplus / expected.clamp(min=1e-30) + doubt) / (1 + doubt)
        energy = energy * ratio.clamp(0.05, 20)
    return _around(seen, torch.zeros_like(seen.copy), energy)


def singular_values(seen: Seen) -> Tensor:
    """Optimal shrinkage for white noise of the mean variance (Gavish and Donoho 2017)."""
    return shrunk(seen.copy, sqrt(float(seen.noise.mean())))


def low_rank(seen: Seen) -> Tensor:
    """A low-rank mean, found where rows and columns are scaled to even noise; Wiener around it."""
    scale = _scale(seen.noise + seen.energy)
    mean = shrunk(seen.copy / scale, 1.0) * scale
    return _around(seen, mean, _left(seen, mean))


def completion(rank: int) -> Callable[[Seen], Tensor]:
    """Entries with little noise fill in the others: truncate, shrink around it, repeat."""

    def attack(seen: Seen) -> Tensor:
        found = wiener(seen)
        for _ in range(2):
            mean = _truncated(found, rank)
            found = _around(seen, mean, _left(seen, mean))
        return found

    return attack


def sibling_mean(seen: Seen) -> Tensor:
    """The sibling's task vector as the mean, scaled block by block; Wiener around it."""
    mean, energy = _regressed(seen)
    return _around(seen, mean, energy)


def sibling_entries(seen: Seen) -> Tensor:
    """The same, with more energy where the sibling's own entries are large."""
    mean, energy = _regressed(seen)
    assert seen.sibling is not None
    square = seen.sibling.square()
    shape = square / block_mean(square).clamp(min=1e-30) - 1
    weight = 1 / (energy + seen.noise).square().clamp(min=1e-30)
    gap = (seen.copy - mean).square() - seen.noise - energy
    fit = float((gap * energy * shape * weight).sum())
    share = fit / max(float(((energy * shape).square() * weight).sum()), 1e-30)
    return _around(seen, mean, energy * (1 + min(max(share, 0.0), 1.0) * shape))


def sibling_subspace(seen: Seen) -> Tensor:
    """Energies in the sibling's singular bases, rows and columns scaled to even noise."""
    assert seen.sibling is not None
    mean, energy = _regressed(seen)
    scale = _scale(seen.noise + seen.energy)
    left, right = _singular(seen.sibling / scale)
    inside = left.T @ ((seen.copy - mean) / scale) @ right.T
    noise = left.T.square() @ (seen.noise / scale.square()) @ right.T.square()
    found = block_mean(inside.square() - noise)
    rows, columns = (torch.bincount(block_of(length)).float() for length in inside.shape)
    count = (rows[:, None] * columns[None, :])[block_of(inside.shape[0])][
        :, block_of(inside.shape[1])
    ]
    # Two standard errors of a block's mean square are taken off, or small blocks invent energy.
    signal = (found - 2 * (2 / count).sqrt() * (noise + found.clamp(min=0))).clamp(min=0)
    part = left @ (inside * signal / (signal + noise).clamp(min=1e-30)) @ right * scale
    return _around(seen, mean + part, torch.minimum(energy, _left(seen, mean + part)))


def sibling_and(attack: Callable[[Seen], Tensor]) -> Callable[[Seen], Tensor]:
    """Another attack on what the sibling's mean leaves."""

    def both(seen: Seen) -> Tensor:
        mean, energy = _regressed(seen)
        return mean + attack(Seen(seen.copy - mean, seen.noise, energy))

    return both


ATTACKS: dict[str, Callable[[Seen], Tensor]] = {
    "linear": linear,
    "Wiener": wiener,
    "refined Wiener": refined,
    "singular values": singular_values,
    "low rank": low_rank,
    **{f"completion, rank {rank}": completion(rank) for rank in RANKS},
}
SIBLING_ATTACKS: dict[str, Callable[[Seen], Tensor]] = {
    "sibling, mean": sibling_mean,
    "sibling, entries": sibling_entries,
    "sibling, subspace": sibling_subspace,
    "sibling, low rank": sibling_and(low_rank),
    "sibling, completion": sibling_and(completion(RANKS[0])),
}


def shrunk(matrix: Tensor, sigma: float) -> Tensor:
    """Remove white noise of size `sigma` by optimal shrinkage of singular values (Frobenius)."""
    if not sigma:
        return matrix
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    values, vectors = torch.linalg.eigh(wide @ wide.T)
    ratio, unit = wide.shape[0] / wide.shape[1], sigma * sqrt(wide.shape[1])
    y = values.clamp(min=0).sqrt() / unit
    inside = ((y.square() - ratio - 1).square() - 4 * ratio).clamp(min=0).sqrt()
    factor = torch.where(y > 1 + sqrt(ratio), inside / y.square().clamp(min=1e-30), 0.0)
    kept = vectors * factor @ (vectors.T @ wide)
    return kept if wide is matrix else kept.T


def _singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left (O, k) and right (k, I) singular vectors, largest first; faster than torch's SVD."""
    if matrix.shape[0] > matrix.shape[1]:
        left, right = _singular(matrix.T)
        return right.T, left.T
    left = torch.linalg.eigh(matrix @ matrix.T)[1].flip(1)
    return left, torch.linalg.qr(matrix.T @ left)[0].T


def _truncated(matrix: Tensor, rank: int) -> Tensor:
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    vectors = torch.linalg.eigh(wide @ wide.T)[1][:, -rank:]
    kept = vectors @ (vectors.T @ wide)
    return kept if wide is matrix else kept.T


def _around(seen: Seen, mean: Tensor, energy: Tensor) -> Tensor:
    return mean + (seen.copy - mean) * energy / (energy + seen.noise).clamp(min=1e-30)


def _left(seen: Seen, mean: Tensor) -> Tensor:
    """Energy that a mean leaves, as the copy shows it; never above e."""
    found = block_mean((seen.copy - mean).square() - seen.noise)
    return torch.maximum(torch.minimum(found, seen.energy), 0.05 * seen.energy)


def _regressed(seen: Seen) -> tuple[Tensor, Tensor]:
    """The sibling times a factor for each block, and the energy that is left around it."""
    assert seen.sibling is not None
    weight = 1 / (seen.energy + seen.noise).clamp(min=1e-30)
    along, square = seen.copy * seen.sibling * weight, seen.sibling.square() * weight
    overall = float(along.sum() / square.sum().clamp(min=1e-30))
    # Blocks differ; those that say little follow the whole matrix.
    trust = float(square.mean()) / 16
    factor = (block_mean(along) + trust * overall) / (block_mean(square) + trust).clamp(min=1e-30)
    explained = factor.square() * block_mean(seen.sibling.square())
    energy = torch.maximum(seen.energy - explained, 0.05 * seen.energy)
    return factor * seen.sibling, energy


def _scale(variance: Tensor) -> Tensor:
    """√(r cᵀ), the separable fit to a variance (O, I) in its logarithm."""
    log = variance.clamp(min=1e-30).log()
    fitted = log.mean(1, keepdim=True) + log.mean(0, keepdim=True) - log.mean()
    return (fitted / 2).exp()
