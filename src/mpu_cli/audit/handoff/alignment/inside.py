"""What happens inside heads: turns of RoPE planes, signed permutations, plane rotations.

The anchor's heads must already be in the copy's places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import pi

import numpy as np
from scipy.optimize import linear_sum_assignment

from mpu_cli.architectures.layout import Index, LayerLayout, Slot
from mpu_cli.audit.handoff.alignment.products import Tensors, entries, inside_heads, squares
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.build import (
    move_inside,
    rotate_planes,
    turn_planes,
    value_planes,
)
from mpu_cli.server.transforms.reparameterization import Reparameterization

_SIGNIFICANT = 30.0
"""Free angles must explain this many times what they would of white noise; else the right angles,
or the signed permutation, are taken. A true rotation explains thousands of times."""


def estimate_planes(
    layer: LayerLayout, anchor: Tensors, copy: Tensors, *, free: bool = True
) -> Reparameterization:
    """The angle of each RoPE plane of q and k, rounded to right angles where all are near them.

    Args:
        layer: its slots.
        anchor: tensors whose planes are turned.
        copy: tensors that they are turned to.
        free: whether angles other than right angles are considered.
    """
    if "k" not in layer.slots:
        return Reparameterization({})
    slots = [slot for role in ("k", "q") for slot in layer.slots[role]]
    angles, sizes, _ = _angles(inside_heads(slots, anchor, copy).numpy(), layer.planes)
    quarters = np.rint(angles / (pi / 2))
    lost = 2 * float((sizes * (1 - np.cos(angles - quarters * pi / 2))).sum())
    turned = [replace(slot, index=slot.index[..., layer.planes.ravel()]) for slot in slots]
    if not free or lost <= _expected(turned, anchor, copy, float(sizes.sum()), angles.size):
        return turn_planes(layer, quarters.astype(np.int64) % 4)
    return rotate_planes(layer, ("q", "k"), layer.planes, angles)


def estimate_free(layer: LayerLayout, anchor: Tensors, copy: Tensors) -> Reparameterization:
    """The signed permutation of the coordinates of q and k that RoPE does not turn."""
    roles = ("k_free", "q_free")
    slots = [slot for role in roles for slot in layer.slots.get(role, ())]
    if not slots:
        return Reparameterization({})
    source, sign, _ = _signed_permutation(inside_heads(slots, anchor, copy).numpy())
    return move_inside(layer, roles, source, sign)


def estimate_values(layer: LayerLayout, anchor: Tensors, copy: Tensors) -> Reparameterization:
    """The signed permutation of v and o, or their rotation by planes if that fits better."""
    roles = ("v", "o")
    slots = [slot for role in roles for slot in layer.slots.get(role, ())]
    if not slots:
        return Reparameterization({})
    products = inside_heads(slots, anchor, copy).numpy()
    planes, _ = value_planes(layer)
    angles, sizes, rest = _angles(products, planes)
    source, sign, gain = _signed_permutation(products)
    rotated = float(sizes.sum()) + rest
    better = 2 * (rotated - gain)
    if better > _expected(slots, anchor, copy, max(rotated, gain), angles.size):
        return rotate_planes(layer, roles, planes, angles)
    return move_inside(layer, roles, source, sign)


def leftover_angles(layer: LayerLayout, model: Tensors, estimate: Tensors) -> Reparameterization:
    """The rotation by which an estimate differs from the model; it changes no output."""
    maps: dict[str, list[AxisMap]] = {}
    parts = []
    if "k" in layer.slots:
        slots = [slot for role in ("k", "q") for slot in layer.slots[role]]
        angles = _angles(inside_heads(slots, model, estimate).numpy(), layer.planes)[0]
        parts.append(rotate_planes(layer, ("q", "k"), layer.planes, angles))
    slots = [slot for role in ("v", "o") for slot in layer.slots[role]]
    planes, _ = value_planes(layer)
    angles = _angles(inside_heads(slots, model, estimate).numpy(), planes)[0]
    parts.append(rotate_planes(layer, ("v", "o"), planes, angles))
    for part in parts:
        for name, steps in part.maps.items():
            maps.setdefault(name, []).extend(steps)
    return Reparameterization(maps)


def _angles(products: np.ndarray, planes: Index) -> tuple[np.ndarray, np.ndarray, float]:
    """The best angle of each head and plane, its gain, and the gain of coordinates in no plane."""
    first, second = planes[:, 0], planes[:, 1]
    along = products[:, first, first] + products[:, second, second]
    across = products[:, first, second] - products[:, second, first]
    alone = np.setdiff1d(np.arange(products.shape[-1]), planes)
    return np.arctan2(across, along), np.hypot(across, along), products[:, alone, alone].sum()


def _signed_permutation(products: np.ndarray) -> tuple[Index, Index, float]:
    """Source and sign of each head's coordinates, (heads, d), and the gain."""
    source, sign, gain = [], [], 0.0
    for table in products:
        by_place = table.T
        chosen = linear_sum_assignment(-np.abs(by_place))[1]
        matched = by_place[np.arange(len(chosen)), chosen]
        source.append(chosen)
        sign.append(np.where(matched < 0, -1, 1))
        gain += float(np.abs(matched).sum())
    return np.stack(source), np.stack(sign), gain


def _expected(
    slots: Sequence[Slot], anchor: Tensors, copy: Tensors, gain: float, angles: int
) -> float:
    """The largest decrease of the squared residual that angles owe to noise."""
    before, count = squares(slots, anchor) + squares(slots, copy), entries(slots, anchor)
    left = max(before - 2 * gain, 1e-9 * before)  # float32's rounding at least
    return _SIGNIFICANT * angles * left / count
