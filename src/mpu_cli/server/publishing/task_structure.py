"""How far the singular values of the task vector let a holder remove noise.

A holder of a copy shrinks the singular values of each matrix of (copy − base). What that leaves of
a matrix D with n rows and p columns, n ≤ p, is computed from D: its k largest singular values x_i
are spikes, and the rest, of energy E, is like white noise of size τ, τ² = E/(np). For noise σ the
optimal shrinker of spikes leaves ℓ(x_i) each in noise of √(σ² + τ²) (Gavish and Donoho 2017, the
Frobenius loss), and the linear estimate of what remains leaves np σ²τ²/(σ² + τ²); its error and the
spikes' are uncorrelated. The k that leaves least counts; k = 0 is the linear estimate of this
matrix by itself. `benchmarks/exposure.py` finds the sum within 2 % of the best shrinker of singular
values, chosen with θ in hand, for full-rank, rank-8 and trained task vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.checkpoint.dtypes import read_span
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.server.lineage.curve import LEVEL, SIZES, Curve
from mpu_cli.server.publishing.weight_statistics import WeightStatistics

_RANK = 64
"""Singular values that are computed of each matrix."""
_MOST_EXPERTS = 8
"""Of a stack of more matrices, so many are measured, evenly spread."""
_BLOCK = 1 << 20
"""Entries in memory at once."""
_SEED = 0
"""The sketch is no secret: it only measures."""
_WORTH = 0.95
"""A gain that never reaches 5 % is left out: chance gives that much in small matrices."""


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A vector or one matrix of θ − base."""

    elements: int
    energy: float
    """‖θ − base‖²."""
    shape: tuple[int, int] = (1, 1)
    """n ≤ p of the matrix."""
    stands_for: float = 1.0
    """How many matrices of a stack it represents."""
    values: tuple[float, ...] = ()
    """Largest singular values, descending; empty for a vector."""

    def left(self, sigma: float) -> float:
        """Squared error that noise of size σ (weight units) leaves of all it stands for."""
        energy, (rows, columns), count = self.energy, self.shape, self.elements
        best = energy
        for spikes in (0, *(2**power for power in range(7))):
            if spikes > len(self.values):
                break
            strong = self.values[:spikes]
            tail = max(energy - sum(value**2 for value in strong), 0.0) / count
            noise = tail + sigma**2
            unit = columns * noise
            shrunk = unit * sum(_loss(value**2 / unit, rows / columns) for value in strong)
            kept = sigma**2 / noise
            best = min(best, kept**2 * shrunk + count * tail * kept)
        return best * self.stands_for


def sampled_layers(layout: ModelLayout, sizes: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """By group, the tensors of the first, the middle and the last layer that gets noise."""
    layers = [layer for layer in layout.layers if sizes.get(layer.group)]
    chosen = sorted({0, len(layers) // 2, len(layers) - 1}) if layers else []
    return {layers[index].group: layers[index].noised for index in chosen}


def structure_curve(
    model: Checkpoint,
    base: Checkpoint,
    layout: ModelLayout,
    statistics: WeightStatistics,
    sizes: Mapping[str, float],
) -> Curve:
    """The noise that is as good as noise of each size after shrinkage, as a share of that size.

    Peak memory is two blocks and 64 rows and columns of the largest matrix.

    Args:
        model: θ.
        base: the public base.
        layout: the model's.
        statistics: of θ and the base.
        sizes: the unit of κ by group, weight units.
    """
    spectra = {
        group: [
            spectrum
            for name in names
            for spectrum in _spectra(model.tensors[name], base.tensors[name])
        ]
        for group, names in sampled_layers(layout, sizes).items()
    }
    groups = [
        (
            statistics.groups[group].task_rms,
            sizes[group],
            sum(item.elements * item.stands_for for item in tensors),
        )
        for group, tensors in spectra.items()
    ]

    def linear(size: float) -> float:
        """What the linear estimate of whole groups leaves, squared."""
        return sum(
            count * task**2 * (size * unit) ** 2 / (task**2 + (size * unit) ** 2)
            for task, unit, count in groups
            if task
        )

    factors = []
    for size in SIZES:
        left = sum(
            item.left(size * sizes[group]) for group, items in spectra.items() for item in items
        )
        low, high = 0.0, size
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if linear(middle) < left else (low, middle)
        factors.append(high / size)
    return Curve.of(factors, _WORTH) if spectra else LEVEL


def _loss(square: float, ratio: float) -> float:
    """Loss of a spike x after optimal shrinkage, in units of pσ²; `square` is x²/(pσ²)."""
    if square**2 <= ratio:
        return square  # not detectable: it is estimated as 0
    cosines = (square**2 - ratio) ** 2 / ((square**2 + ratio * square) * (square**2 + square))
    return square * (1 - cosines)


def _spectra(info: TensorInfo, base: TensorInfo) -> list[Spectrum]:
    """Measure one tensor of θ − base; of a stack of matrices, such as experts, several."""
    if len(info.shape) < 2:
        energy = sum(_squares(rows) for _, rows in _differences(info, base, 0, info.elements, 1))
        return [Spectrum(info.elements, energy)]
    count = prod(info.shape[:-2])
    measured = min(count, _MOST_EXPERTS)
    places = [round(k * (count - 1) / max(1, measured - 1)) for k in range(measured)]
    return [_spectrum(info, base, place, count / measured) for place in places]


def _spectrum(info: TensorInfo, base: TensorInfo, place: int, stands_for: float) -> Spectrum:
    """Measure one matrix of a tensor by a randomised range finder (Halko and others 2011)."""
    height, width = info.shape[-2:]
    start = place * height * width
    rank = min(_RANK, min(height, width) // 2)
    sketch = torch.randn(width, rank, generator=torch.Generator().manual_seed(_SEED))
    range_, energy = torch.empty(height, rank), 0.0
    for row, rows in _differences(info, base, start, height, width):
        energy += _squares(rows)
        torch.matmul(rows, sketch, out=range_[row : row + len(rows)])
    values: list[float] = []
    if rank and energy:
        found = torch.linalg.qr(range_.double() / sqrt(energy))[0].float()
        inside = torch.zeros(rank, width)
        for row, rows in _differences(info, base, start, height, width):
            inside.addmm_(found[row : row + len(rows)].T, rows)
        wide = inside.double()
        squares = torch.linalg.eigvalsh(wide @ wide.T).clamp(min=0).flip(0)
        values = squares.sqrt().tolist()
    shape = min(height, width), max(height, width)
    return Spectrum(height * width, energy, shape, stands_for, tuple(values))


def _differences(
    info: TensorInfo, base: TensorInfo, start: int, height: int, width: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """Rows of θ − base as (number of the first, float32 rows), from entry `start` on."""
    step = max(1, _BLOCK // width)
    for row in range(0, height, step):
        first, last = start + row * width, start + min(row + step, height) * width
        values = read_span(info, first, last).float()
        yield row, values.sub_(read_span(base, first, last).float()).view(-1, width)


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) ** 2
