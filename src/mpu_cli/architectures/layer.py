"""One decoder layer: its slots and facts, from the family's sections and the tensors on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpu_cli.architectures.layout import Experts, Index, LayerLayout, Slot, rope_planes
from mpu_cli.architectures.sections import Attention, FeedForward
from mpu_cli.architectures.sizes import LatentSizes, Sizes, positive
from mpu_cli.architectures.storage import fused_attention, fused_branches, grid
from mpu_cli.architectures.tensor_lookup import TensorLookup
from mpu_cli.errors import BadModelError

Slots = dict[str, tuple[Slot, ...]]
Facts = dict[str, str | None]


@dataclass(slots=True)
class _AttentionLayout:
    slots: Slots
    planes: Index
    facts: Facts
    head_tensors: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_layer(
    lookup: TensorLookup,
    sizes: Sizes,
    config: Mapping[str, Any],
    index: int,
    left_alone: Mapping[str, str],
) -> LayerLayout:
    """Lay out one layer; `config` is the language model's configuration.

    Raises:
        BadModelError: a tensor is missing or has another shape than the family and the config say.
    """
    family = lookup.family
    if family.attention is not None:
        attention = _attention(lookup, family.attention, sizes, config, index)
    else:
        attention = _latent(lookup, sizes, config)
    ffns, experts, ffn_facts = _feed_forwards(lookup, config)
    for path in (*family.norms, *(path for path in family.sometimes if lookup.find(path))):
        lookup.require(path)
    untouched = tuple(name for name in left_alone if name.startswith(lookup.prefix))
    twice = sorted(set(untouched) & set(lookup.noised))
    if twice:
        raise ValueError(f"{family.name}.yaml: {twice[0]} is both used and listed as unused")
    return LayerLayout(
        index,
        attention.slots,
        attention.planes,
        ffns,
        tuple(lookup.noised),
        untouched,
        experts,
        attention.head_tensors,
        {**attention.facts, **ffn_facts},
    )


def _attention(
    lookup: TensorLookup, section: Attention, sizes: Sizes, config: Mapping[str, Any], layer: int
) -> _AttentionLayout:
    kv_heads, group, size = sizes.kv_heads, sizes.heads // sizes.kv_heads, sizes.head_dim
    query, key = grid(kv_heads, group, size), grid(kv_heads, size)
    if section.qkv is not None:
        rows = fused_attention(section.layout, kv_heads, group, size)
        total = (sizes.heads + 2 * kv_heads) * size
        q, k, v = (lookup.rows(section.qkv, part, total) for part in rows)
    else:
        separate = ((section.q, query), (section.k, key), (section.v, key))
        q, k, v = (lookup.rows(str(path), positions) for path, positions in separate)
    o = lookup.columns(section.o, query)
    rotary = 0 if _has_no_rope(lookup, section, config, layer) else sizes.rotary
    slots: Slots = {"v": v, "o": o}
    if rotary:
        slots |= {"q": q, "k": k}
    if rotary < size:
        free = slice(rotary, None)
        slots |= {"q_free": _part(q, free), "k_free": _part(k, free)}
    slots |= {"query_heads": (*q, *o), "key_value_heads": (*k, *v)}
    if section.sinks is not None:
        slots["query_heads"] += lookup.slot(section.sinks, 0, grid(kv_heads, group, 1))
    planes = rope_planes("half" if not rotary else section.rope, rotary)
    layout = _AttentionLayout(slots, planes, section.facts(config))
    if layout.facts["qk_norm"] not in (None, "none"):
        _add_norms(lookup, section, sizes, layout)
    return layout


def _add_norms(
    lookup: TensorLookup, section: Attention, sizes: Sizes, layout: _AttentionLayout
) -> None:
    kv_heads, group, size = sizes.kv_heads, sizes.heads // sizes.kv_heads, sizes.head_dim
    for role, path, moved, heads in (
        ("q_norm", str(section.q_norm), "query_heads", (kv_heads, group)),
        ("k_norm", str(section.k_norm), "key_value_heads", (kv_heads,)),
    ):
        count = int(np.prod(heads))
        if "{h}" in path:
            layout.head_tensors[moved] = tuple(
                lookup.require(path.format(h=head), (size,))[0] for head in range(count)
            )
        elif section.qk_norm == "per_dim":
            lookup.require(path, (size,))
        elif section.qk_norm == "per_head":
            lookup.require(path, (count, size))
            layout.slots[moved] += lookup.slot(path, 0, grid(*heads, 1))
        else:
            norm = lookup.slot(path, 0, grid(*heads, size))
            layout.slots[moved] += norm
            layout.slots[role] = norm
        if len(lookup.find(path.format(h=0))) > 1:
            layout.facts["qk_norm_bias"] = "present"


def _has_no_rope(
    lookup: TensorLookup, section: Attention, config: Mapping[str, Any], layer: int
) -> bool:
    """Whether a layer has no RoPE: by a list in config.json, or without the list every n-th one."""
    where = lookup.where / "config.json"
    for key, value in section.no_rope.items():
        listed = config.get(key)
        if listed is None:
            return (layer + 1) % positive(config, str(section.no_rope_every), where) == 0
        if not isinstance(listed, list) or len(listed) <= layer:
            raise BadModelError(f"{where}: {key} is {listed!r}, expected one entry for each layer")
        if listed[layer] == value:
            return True
    return False


def _latent(lookup: TensorLookup, sizes: Sizes, config: Mapping[str, Any]) -> _AttentionLayout:
    """Multi-head latent attention: one rotary key for all heads, beside a latent vector."""
    section = lookup.family.latent_attention
    assert section is not None
    parts = LatentSizes.from_config(config, lookup.where / "config.json")
    nope, rope, value, latent = parts.nope, parts.rope, parts.value, parts.latent
    heads, path = sizes.heads, section.q
    if config.get("q_lora_rank") is not None:
        path = section.q_b
        lookup.require(section.q_a)
        lookup.require(section.q_a_norm)
    q = lookup.rows(path, grid(heads, 1, nope + rope))
    kv_a = lookup.rows(section.kv_a, grid(latent + rope))
    lookup.require(section.kv_a_norm)
    kv_b = lookup.rows(section.kv_b, grid(heads, nope + value))
    o = lookup.columns(section.o, grid(heads, 1, value))
    slots: Slots = {
        "query_heads": (*q, *o),
        "key_value_heads": kv_b,
        # One key for all heads: to RoPE they are a single group of H query heads.
        "q": tuple(_with(slot, np.swapaxes(slot.index[..., nope:], 0, 1)) for slot in q),
        "k": tuple(_with(slot, slot.index[latent:].reshape(1, rope)) for slot in kv_a),
        "q_free": _part(q, slice(0, nope)),
        "k_free": _part(kv_b, slice(0, nope)),
        "v": _part(kv_b, slice(nope, None)),
        "o": o,
    }
    return _AttentionLayout(slots, rope_planes(section.rope, rope), section.facts(config))


def _feed_forwards(
    lookup: TensorLookup, config: Mapping[str, Any]
) -> tuple[tuple[Slots, ...], Experts | None, Facts]:
    ffns: list[Slots] = []
    experts = None
    used: list[FeedForward] = []
    for block in lookup.family.ffn:
        tensors: tuple[tuple[str, ...], ...] = ()
        if "{e}" in block.down:
            count = 0
            while lookup.find(block.down.format(e=count)):
                count += 1
            members = [block.of_expert(expert) for expert in range(count)]
            tensors = tuple(_tensors(lookup, member) for member in members)
        else:
            members = [block] if lookup.find(block.down) else []
            count = lookup.shapes[lookup.find(block.down)[0]][0] if members else 0
        if not members:
            continue
        ffns += [_feed_forward(lookup, member) for member in members]
        if block.router:
            experts = _experts(lookup, config, block, count, tensors)
        used.append(block)
    if not ffns:
        raise lookup.missing(lookup.family.ffn[0].down.format(e=0))
    facts = {
        "activation": _common(block.activation for block in used),
        "up_branch": _common(block.branch for block in used),
        "routing": _common(block.routing for block in used if block.router),
    }
    return tuple(ffns), experts, facts


def _common(values: Iterable[str | None]) -> str | None:
    """The value that all feed-forwards of a layer share; None if it is unknown of one."""
    distinct = set(values)
    if None in distinct:
        return None
    return distinct.pop() if len(distinct) == 1 else "mixed" if distinct else "none"


def _tensors(lookup: TensorLookup, block: FeedForward) -> tuple[str, ...]:
    """All tensors of one expert, with the bias of `down`."""
    return tuple(name for path in block.paths.values() for name in lookup.find(path))


def _feed_forward(lookup: TensorLookup, block: FeedForward) -> Slots:
    units = lookup.input_size(block.down, block.storage)
    positions, size = dict.fromkeys(("gate", "up"), grid(units)), units
    if block.gate_up is not None:
        positions = dict(zip(positions, fused_branches(block.layout, units), strict=True))
        size = 2 * units
    slots = {}
    for role, index in positions.items():
        path = block.paths.get("gate_up", block.paths.get(role))
        if path is not None:
            slots[role] = lookup.rows(path, index, size, block.storage)
    return {**slots, "down": lookup.columns(block.down, grid(units), block.storage)}


def _experts(
    lookup: TensorLookup,
    config: Mapping[str, Any],
    block: FeedForward,
    count: int,
    tensors: tuple[tuple[str, ...], ...],
) -> Experts:
    groups, where = 1, lookup.where / "config.json"
    if block.groups is not None:
        groups = positive(config, block.groups, where, default=1)
    if count % groups:
        raise BadModelError(
            f"{where}: {count} experts do not divide into {block.groups} = {groups} groups"
        )
    index = grid(groups, count // groups)
    stacked = () if tensors else block.paths.values()
    slots = [slot for path in (*block.router, *stacked) for slot in lookup.slot(path, 0, index)]
    return Experts(tuple(slots), tensors, groups, count)


def _part(slots: tuple[Slot, ...], part: slice) -> tuple[Slot, ...]:
    """The same slots with only some coordinates of each head."""
    return tuple(_with(slot, slot.index[..., part]) for slot in slots)


def _with(slot: Slot, index: Index) -> Slot:
    return Slot(slot.tensor, slot.axis, slot.size, index)
