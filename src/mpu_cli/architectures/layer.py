"""One decoder layer's slots, from the family's sections `attention` or `latent_attention`, `ffn` and `norms`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mpu_cli.architectures.layout import Experts, Index, LayerLayout, Slot, rope_planes
from mpu_cli.architectures.sizes import LatentSizes, Sizes, positive
from mpu_cli.architectures.storage import fused_attention, fused_branches, grid
from mpu_cli.architectures.tensor_lookup import Claims
from mpu_cli.errors import BadModelError

Slots = dict[str, tuple[Slot, ...]]


@dataclass(slots=True)
class _Attention:
    slots: Slots
    planes: Index
    head_tensors: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_layer(
    claims: Claims,
    sizes: Sizes,
    config: Mapping[str, Any],
    index: int,
    left_alone: Mapping[str, str],
) -> LayerLayout:
    """Lay out one layer; `config` is the language model's configuration.

    Raises:
        BadModelError: a tensor is missing or has another shape than the family and the config say.
    """
    family = claims.family
    attention = (
        _latent(claims, sizes, config)
        if family.latent_attention is not None
        else _attention(claims, sizes, config, index)
    )
    ffns, experts = _feed_forwards(claims, config)
    for path in (*family.norms, *(path for path in family.sometimes if claims.find(path))):
        claims.claim(path)
    untouched = tuple(name for name in left_alone if name.startswith(claims.prefix))
    twice = sorted(set(untouched) & set(claims.noised))
    if twice:
        raise ValueError(f"{family.name}.yaml: {twice[0]} is both used and left alone")
    return LayerLayout(
        index,
        attention.slots,
        attention.planes,
        ffns,
        tuple(claims.noised),
        untouched,
        experts,
        attention.head_tensors,
    )


def _attention(claims: Claims, sizes: Sizes, config: Mapping[str, Any], layer: int) -> _Attention:
    section = claims.family.attention
    assert section is not None
    kv_heads, group, size = sizes.kv_heads, sizes.heads // sizes.kv_heads, sizes.head_dim
    query, key = grid(kv_heads, group, size), grid(kv_heads, size)
    if "qkv" in section:
        rows = fused_attention(section["layout"], kv_heads, group, size)
        total = (sizes.heads + 2 * kv_heads) * size
        q, k, v = (claims.rows(section["qkv"], part, total) for part in rows)
    else:
        q, k, v = (
            claims.rows(section["q"], query),
            claims.rows(section["k"], key),
            claims.rows(section["v"], key),
        )
    o = claims.columns(section["o"], query)
    rotary = 0 if _is_nope(section, config, layer, claims) else sizes.rotary
    free = slice(rotary, None)
    slots: Slots = {"v": v, "o": o}
    if rotary:
        slots |= {"q": q, "k": k}
    if rotary < size:
        slots |= {"q_free": _part(q, free), "k_free": _part(k, free)}
    found = _Attention(slots, rope_planes("half" if not rotary else section["rope"], rotary))
    slots["query_heads"] = (*q, *o)
    slots["key_value_heads"] = (*k, *v)
    if "sinks" in section:
        slots["query_heads"] += claims.slot(section["sinks"], 0, grid(kv_heads, group, 1))
    if section.get("q_norm") is not None:
        _norms(claims, section, sizes, config, found)
    return found


def _norms(
    claims: Claims,
    section: Mapping[str, Any],
    sizes: Sizes,
    config: Mapping[str, Any],
    found: _Attention,
) -> None:
    """Norms on q and k, unless the family says that a config key switches them on and it does not."""
    if "qk_norm_if" in section and not config.get(section["qk_norm_if"]):
        return
    kv_heads, group, size = sizes.kv_heads, sizes.heads // sizes.kv_heads, sizes.head_dim
    for role, path, count in (
        ("q", section["q_norm"], sizes.heads),
        ("k", section["k_norm"], kv_heads),
    ):
        moved = "query_heads" if role == "q" else "key_value_heads"
        heads = (kv_heads, group) if role == "q" else (kv_heads,)
        paths = [path.format(h=head) for head in range(count)] if "{h}" in path else [path]
        if "{h}" in path:
            found.head_tensors[moved] = tuple(claims.claim(one, (size,))[0] for one in paths)
        elif section["qk_norm"] == "per_dim":
            claims.claim(path, (size,))
        elif section["qk_norm"] == "per_head":
            claims.claim(path, (count, size))
            found.slots[moved] += claims.slot(path, 0, grid(*heads, 1))
        else:
            norm = claims.slot(path, 0, grid(*heads, size))
            found.slots[moved] += norm
            found.slots[f"{role}_norm"] = norm


def _is_nope(
    section: Mapping[str, Any], config: Mapping[str, Any], layer: int, claims: Claims
) -> bool:
    """Whether a layer has no RoPE.

    By a per-layer list, or where that is absent, every n-th layer.
    """
    for key, value in section.get("no_rope", {}).items():
        listed = config.get(key)
        if listed is None:
            return (layer + 1) % positive(
                config, section["no_rope_every"], claims.where / "config.json"
            ) == 0
        if not isinstance(listed, list) or len(listed) <= layer:
            raise BadModelError(
                f"{claims.where}/config.json: {key} is {listed!r}, expected one entry for each"
                " layer"
            )
        if listed[layer] == value:
            return True
    return False


def _latent(claims: Claims, sizes: Sizes, config: Mapping[str, Any]) -> _Attention:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434).

    One rotary key shared by all heads, beside a latent.
    """
    section = claims.family.latent_attention
    assert section is not None
    own = LatentSizes.from_config(config, claims.where / "config.json")
    nope, rope, value, latent, heads = own.nope, own.rope, own.value, own.latent, sizes.heads
    if config.get("q_lora_rank") is None:
        path = section["q"]
    else:
        path = section["q_b"]
        claims.claim(section["q_a"])
        claims.claim(section["q_a_norm"])
    q = claims.rows(path, grid(heads, 1, nope + rope))
    kv_a = claims.rows(section["kv_a"], grid(latent + rope))
    claims.claim(section["kv_a_norm"])
    kv_b = claims.rows(section["kv_b"], grid(heads, nope + value))
    o = claims.columns(section["o"], grid(heads, 1, value))
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
    return _Attention(slots, rope_planes(section["rope"], rope))


def _feed_forwards(
    claims: Claims, config: Mapping[str, Any]
) -> tuple[tuple[Slots, ...], Experts | None]:
    ffns: list[Slots] = []
    experts = None
    for block in claims.family.ffn:
        if "{e}" in block["down"]:
            count = 0
            while claims.find(block["down"].format(e=count)):
                count += 1
            if count:
                mine = [_of_expert(block, expert) for expert in range(count)]
                ffns += [_feed_forward(claims, one) for one in mine]
                experts = _experts(
                    claims, config, block, count, tuple(_tensors(claims, one) for one in mine)
                )
        elif claims.find(block["down"]):
            ffns.append(_feed_forward(claims, block))
            if "router" in block:
                shape = claims.shapes[claims.find(block["down"])[0]]
                experts = _experts(claims, config, block, shape[0], ())
    if not ffns:
        raise claims.missing(claims.family.ffn[0]["down"].format(e=0))
    return tuple(ffns), experts


def _of_expert(block: Mapping[str, Any], expert: int) -> dict[str, Any]:
    return {
        key: value.format(e=expert) if isinstance(value, str) else value
        for key, value in block.items()
    }


def _paths(block: Mapping[str, Any]) -> list[str]:
    return [block[key] for key in ("gate", "up", "gate_up", "down") if key in block]


def _tensors(claims: Claims, block: Mapping[str, Any]) -> tuple[str, ...]:
    """All tensors of one expert, the bias of `down` too."""
    return tuple(name for path in _paths(block) for name in claims.find(path))


def _feed_forward(claims: Claims, block: Mapping[str, Any]) -> Slots:
    storage = block.get("storage")
    units = claims.input_size(block["down"], storage)
    if "gate_up" in block:
        gate, up = fused_branches(block["layout"], units)
        slots = {
            "gate": claims.rows(block["gate_up"], gate, 2 * units, storage),
            "up": claims.rows(block["gate_up"], up, 2 * units, storage),
        }
    else:
        slots = {
            role: claims.rows(block[role], grid(units), None, storage)
            for role in ("gate", "up")
            if role in block
        }
    return {**slots, "down": claims.columns(block["down"], grid(units), storage)}


def _experts(
    claims: Claims,
    config: Mapping[str, Any],
    block: Mapping[str, Any],
    count: int,
    tensors: tuple[tuple[str, ...], ...],
) -> Experts:
    groups = (
        positive(config, block["groups"], claims.where / "config.json", default=1)
        if "groups" in block
        else 1
    )
    if count % groups:
        raise BadModelError(
            f"{claims.where}/config.json: {count} experts do not divide into {block['groups']} ="
            f" {groups} groups"
        )
    index = grid(groups, count // groups)
    slots = [slot for path in block["router"] for slot in claims.slot(path, 0, index)]
    if not tensors:
        slots += [slot for path in _paths(block) for slot in claims.slot(path, 0, index)]
    return Experts(tuple(slots), tensors, groups, count)


def _part(slots: tuple[Slot, ...], part: slice) -> tuple[Slot, ...]:
    """The same slots, only some coordinates of each head."""
    return tuple(_with(slot, slot.index[..., part]) for slot in slots)


def _with(slot: Slot, index: Index) -> Slot:
    return Slot(slot.tensor, slot.axis, slot.size, index)
