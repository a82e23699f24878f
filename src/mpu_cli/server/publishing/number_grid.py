"""What rounding to the model's own number grid lets a holder remove of the noise.

A tensor in bfloat16 or float16 has few numbers to choose from. Where noise is smaller than half a
step between them, rounding a copy gives the weight itself. Three estimates are tried on a sample of
θ's entries with noise of our own: the linear one, and rounding the copy or the linear estimate
where the step is so large that it helps. The best of them counts, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, grid_step, read_span
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.server.lineage.curve import LEVEL, SIZES, Curve
from mpu_cli.server.publishing.task_structure import sampled_layers
from mpu_cli.server.publishing.weight_statistics import narrowest_dtype

_SPANS, _SPAN = 8, 4096
"""Entries that are looked at in each tensor: evenly spaced spans."""
_HELPS = 3.5
"""Rounding noise of size σ to steps above 3.5 σ leaves less than σ."""
_SEED = 0
"""The noise of this simulation is no secret."""
_WORTH = 0.95


def grid_curve(
    model: Checkpoint,
    base: Checkpoint | None,
    layout: ModelLayout,
    sizes: Mapping[str, float],
) -> Curve:
    """What is left after rounding, over what the linear estimate leaves, by size of the noise.

    Args:
        model: θ.
        base: the public base; without one the linear estimate starts from 0.
        layout: the model's.
        sizes: the unit of κ by group, weight units.
    """
    samples = [
        (name, size, _sample(model.tensors[name]))
        for group, names in sampled_layers(layout, sizes).items()
        for name, size in ((name, sizes[group]) for name in names)
    ]
    dtypes = [narrowest_dtype(values) for *_, values in samples]
    if all(dtype == "F32" for dtype in dtypes):
        return LEVEL
    generator = torch.Generator().manual_seed(_SEED)
    rounded, linear = [0.0] * len(SIZES), [0.0] * len(SIZES)
    for (name, unit, values), dtype in zip(samples, dtypes, strict=True):
        before = _sample(base.tensors[name]) if base else torch.zeros(len(values))
        normals = torch.randn(len(values), generator=generator)
        weight = model.tensors[name].elements / len(values)
        for number, size in enumerate(SIZES):
            plain, best = _errors(values, before, normals * (size * unit), dtype)
            linear[number] += weight * plain
            rounded[number] += weight * best
    shares = [
        sqrt(best / plain) if plain else 1.0 for best, plain in zip(rounded, linear, strict=True)
    ]
    return Curve.of(shares, _WORTH)


def _errors(
    values: torch.Tensor, before: torch.Tensor, noise: torch.Tensor, dtype: str
) -> tuple[float, float]:
    """Squared errors of the linear estimate, and of the best of the three estimates."""
    task, sigma = float((values - before).square().mean()), float(noise.square().mean().sqrt())
    seen = values + noise
    if not task:
        return 0.0, 0.0
    share = task / (task + sigma**2)
    estimate = before + share * (seen - before)
    errors, guesses = [estimate], ((seen, sigma), (estimate, sigma * sqrt(share)))
    for guess, size in guesses if dtype != "F32" else ():
        step = grid_step(guess, dtype)
        near = guess.to(TORCH_DTYPES[dtype]).float()
        errors.append(torch.where(step > _HELPS * size, near, estimate))
    sums = [float((error - values).double().square().sum()) for error in errors]
    return sums[0], min(sums)


def _sample(info: TensorInfo) -> torch.Tensor:
    if info.elements <= _SPANS * _SPAN:
        return read_span(info, 0, info.elements).float()
    stride = (info.elements - _SPAN) // (_SPANS - 1)
    return torch.cat(
        [
            read_span(info, number * stride, number * stride + _SPAN).float()
            for number in range(_SPANS)
        ]
    )
