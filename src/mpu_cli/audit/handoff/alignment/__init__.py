"""Alignment: estimate by which reparameterization a copy differs from an anchor, layer by layer.

The anchor is the public base, or the first copy if the attacker has no base. Nothing here knows
which transforms the copies went through: experts, heads, planes, coordinates and hidden units are
matched with the anchor in the order in which `perturb` moves them, and what did not move is
matched with itself.

Sources: matching of hidden units by weights, Ainsworth, Hayase, Srinivasa, "Git Re-Basin"
(arXiv 2209.04836); angles and heads are our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.audit.handoff.alignment.heads import estimate_experts, estimate_heads
from mpu_cli.audit.handoff.alignment.inside import (
    estimate_free,
    estimate_planes,
    estimate_values,
)
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.alignment.units import estimate_units
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.reparameterization import Reparameterization

FAILED_BELOW = 0.5
"""Share of clearly matched hidden units below which an alignment counts as failed."""


@dataclass(frozen=True, slots=True)
class LayerAlignment:
    """The estimate for one layer of one copy."""

    transform: Reparameterization
    """T̂: `transform.invert(name, copy[transform.target(name)])` is the copy in the anchor's
    frame."""
    clear: int
    """Hidden units whose match stands out from all others."""
    units: int
    cosine: float
    """Of T̂(anchor) and the copy."""

    def undo(self, layer: LayerLayout, copy: Tensors) -> Tensors:
        """The copy in the anchor's frame, by the anchor's names."""
        return {
            name: self.transform.invert(name, copy[self.transform.target(name)])
            for name in layer.noised
        }


def align(layer: LayerLayout, anchor: Tensors, copy: Tensors) -> LayerAlignment:
    """Estimate T of one layer, with copy ≈ T(anchor); both hold the layer's tensors, float32."""
    whole, moved = Reparameterization({}), anchor
    clear = units = 0
    for estimate in (
        estimate_experts,
        estimate_heads,
        estimate_planes,
        estimate_free,
        estimate_values,
    ):
        step = estimate(layer, moved, copy)
        whole, moved = _then(whole, step, layer), applied(step, layer, moved)
    step, clear, units = estimate_units(layer, moved, copy)
    whole, moved = _then(whole, step, layer), applied(step, layer, moved)
    return LayerAlignment(whole, clear, units, _cosine(moved, copy))


def applied(step: Reparameterization, layer: LayerLayout, tensors: Tensors) -> Tensors:
    """T of a layer's tensors, by the names in the copy."""
    return {step.target(name): step.apply(name, tensors[name]) for name in layer.noised}


def _then(
    first: Reparameterization, second: Reparameterization, layer: LayerLayout
) -> Reparameterization:
    """Both transforms, one after the other, by the names before the first."""
    maps: dict[str, list[AxisMap]] = {}
    targets: dict[str, str] = {}
    for name in layer.noised:
        between = first.target(name)
        steps = [*first.maps.get(name, ()), *second.maps.get(between, ())]
        if steps:
            maps[name] = steps
        if second.target(between) != name:
            targets[name] = second.target(between)
    return Reparameterization(maps, targets)


def _cosine(first: Tensors, second: Tensors) -> float:
    product = sum(float((first[name].double() * second[name].double()).sum()) for name in second)
    sizes = (
        sum(float(tensor.double().square().sum()) for tensor in it.values())
        for it in (first, second)
    )
    size = sqrt(next(sizes) * next(sizes))
    return product / size if size else 0.0
