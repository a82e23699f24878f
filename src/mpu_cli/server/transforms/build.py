"""Transforms from given permutations, signs and angles, without any secret.

`kinds` draws these from the secret, and an attack (`mpu_cli.audit.handoff.alignment`) estimates
them from published copies. This module imports nothing of `server.secrets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from mpu_cli.architectures.layout import Index, LayerLayout, Slot, rope_planes
from mpu_cli.server.transforms.axis_maps import (
    AxisMap,
    PlaneRotation,
    SignedPermutation,
    on_slots,
)
from mpu_cli.server.transforms.reparameterization import Reparameterization


def grouped_source(shape: tuple[int, ...], order: Index, inside: Index | None = None) -> Index:
    """The old flat position of the entry that comes to each place, in `shape`.

    Args:
        shape: groups, members and further axes.
        order: of the groups, by their old places.
        inside: the order of the members in each group, by the group's new place.
    """
    positions = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)[order]
    if inside is None:
        return positions
    return np.stack([group[members] for group, members in zip(positions, inside, strict=True)])


def move_units(
    ffns: Sequence[Mapping[str, tuple[Slot, ...]]], orders: Sequence[tuple[Index, Index]]
) -> Reparameterization:
    """Permute the hidden units of each feed-forward, and sign up and down alike.

    Args:
        ffns: feed-forwards (`LayerLayout.ffns`).
        orders: for each, the old unit that comes to each place, and its sign ±1, both (F,).
    """
    maps: dict[str, list[AxisMap]] = {}
    for ffn, (order, sign) in zip(ffns, orders, strict=True):
        # The branch whose sign `down` undoes; without gating a signed permutation is invalid.
        linear = "up" if "up" in ffn else "gate"
        for role, slots in ffn.items():
            flips = sign if role in {"down", linear} else np.ones_like(sign)
            on_slots(slots, partial(SignedPermutation.on_slot, source=order, sign=flips), maps)
    return Reparameterization(maps)


def move_heads(layer: LayerLayout, order: Index, inside: Index) -> Reparameterization:
    """Permute key-value heads, `order` (KV,), and the query heads of each, `inside` (KV, G).

    Query head h uses key-value head h // G, so the G query heads of a group stay together.
    """
    kv_heads, group, _ = layer.slots["query_heads"][0].index.shape
    maps: dict[str, list[AxisMap]] = {}
    on_slots(
        layer.slots["query_heads"],
        lambda slot: SignedPermutation.moving(
            slot, grouped_source(slot.index.shape, order, inside)
        ),
        maps,
    )
    on_slots(
        layer.slots["key_value_heads"],
        lambda slot: SignedPermutation.moving(slot, grouped_source(slot.index.shape, order)),
        maps,
    )
    targets: dict[str, str] = {}
    for role, came_from in (
        ("query_heads", grouped_source((kv_heads, group), order, inside)),
        ("key_value_heads", order),
    ):
        tensors = layer.head_tensors.get(role, ())
        if tensors:
            targets |= {
                tensors[old]: place
                for place, old in zip(tensors, came_from.ravel().tolist(), strict=True)
            }
    return Reparameterization(maps, targets)


def turn_planes(layer: LayerLayout, quarters: Index) -> Reparameterization:
    """Turn plane p of key g, and of all query heads that use this key, by quarters[g, p] · 90°."""
    if "k" not in layer.slots:
        return Reparameterization({})
    heads, size = layer.slots["k"][0].index.shape
    first, second = layer.planes[:, 0], layer.planes[:, 1]
    source = np.tile(np.arange(size), (heads, 1))
    sign = np.ones((heads, size), dtype=np.int64)
    swapped = quarters % 2 == 1
    source[:, first] = np.where(swapped, second, first)
    source[:, second] = np.where(swapped, first, second)
    # 90°: (a, b) → (−b, a); 180°: (−a, −b); 270°: (b, −a).
    sign[:, first] = np.where((quarters == 1) | (quarters == 2), -1, 1)
    sign[:, second] = np.where((quarters == 2) | (quarters == 3), -1, 1)
    maps: dict[str, list[AxisMap]] = {}
    for role, signs in (
        ("q", sign),
        ("k", sign),
        ("q_norm", np.ones_like(sign)),
        ("k_norm", np.ones_like(sign)),
    ):
        on_slots(
            layer.slots.get(role, ()),
            partial(SignedPermutation.inside_heads, source=source, sign=signs),
            maps,
        )
    return Reparameterization(maps)


def value_planes(layer: LayerLayout) -> tuple[Index, bool]:
    """The planes in which `rotation` turns v and o, and whether their angles are those of q and k.

    v and o have other planes and angles in layers without RoPE and in latent attention.
    """
    kv_heads, size = layer.slots["v"][0].index.shape
    if "k" in layer.slots and layer.slots["k"][0].index.shape == (kv_heads, size):
        return layer.planes, True
    return rope_planes("half", size), False


def rotate_planes(
    layer: LayerLayout, roles: Sequence[str], planes: Index, angles: np.ndarray
) -> Reparameterization:
    """Rotate plane p of head g in all these roles by angles[g, p], radians."""
    maps: dict[str, list[AxisMap]] = {}
    for slot in (slot for role in roles for slot in layer.slots[role]):
        first, second = slot.index[..., planes[:, 0]], slot.index[..., planes[:, 1]]
        grouped = angles.reshape(len(angles), *(1,) * (slot.index.ndim - 2), len(planes))
        spread = np.broadcast_to(grouped, first.shape).ravel().copy()
        maps.setdefault(slot.tensor, []).append(
            PlaneRotation(slot.axis, first.ravel(), second.ravel(), spread)
        )
    return Reparameterization(maps)


def move_inside(
    layer: LayerLayout, roles: Sequence[str], source: Index, sign: Index
) -> Reparameterization:
    """One signed permutation per key-value head, both (KV, d), of the roles' coordinates."""
    slots = [slot for role in roles for slot in layer.slots.get(role, ())]
    maps: dict[str, list[AxisMap]] = {}
    on_slots(slots, lambda slot: SignedPermutation.inside_heads(slot, source, sign), maps)
    return Reparameterization(maps)


def move_experts(layer: LayerLayout, came_from: Index) -> Reparameterization:
    """Permute the experts together with the router's rows.

    Args:
        layer: its experts, if it has any, change places.
        came_from: the old number of the expert that comes to each place, (groups, E / groups).
    """
    experts = layer.experts
    if experts is None:
        return Reparameterization({})
    maps: dict[str, list[AxisMap]] = {}
    on_slots(experts.slots, lambda slot: SignedPermutation.moving(slot, came_from), maps)
    targets: dict[str, str] = {}
    if experts.tensors:
        for place, old in enumerate(came_from.ravel().tolist()):
            targets.update(zip(experts.tensors[old], experts.tensors[place], strict=True))
    return Reparameterization(maps, targets)
