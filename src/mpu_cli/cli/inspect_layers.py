"""Group the layers of a model that have the same layout, and list their slots and tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mpu_cli.architectures.layout import Index, LayerLayout, Slot
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.cli.inspect_text import braced, count, describe_positions, expert_parts, parts, span

ROLES: Mapping[str, str] = {
    "query_heads": "query heads",
    "key_value_heads": "key-value heads",
    "q": "q, with RoPE",
    "k": "k, with RoPE",
    "q_free": "q, without RoPE",
    "k_free": "k, without RoPE",
    "q_norm": "norm of q",
    "k_norm": "norm of k",
    "v": "v",
    "o": "o",
    "gate": "gate",
    "up": "up",
    "down": "down",
    "router": "router",
    "experts": "experts",
    "noise": "noise only",
    "alone": "left exact",
}
_NUMBER = re.compile(r"\.(\d+)(?=\.)")


@dataclass(frozen=True, slots=True)
class LayoutRow:
    """One axis of one tensor, or of a numbered series of tensors, in one role."""

    role: str
    tensor: str
    """The name relative to the layer; a series has its numbers as {0..255}."""
    axis: str
    positions: str
    parts: str
    """The parts of the positions, from the outside in: 8 × 4 heads × 128."""


@dataclass(slots=True)
class LayerGroup:
    """Layers with the same layout."""

    about: str
    rows: tuple[LayoutRow, ...]
    layers: list[int] = field(default_factory=list)


class LayoutReader:
    """Turns layers into rows; `prefixes` holds the start of each layer's tensor names."""

    def __init__(self, tensors: Mapping[str, TensorInfo], prefixes: Mapping[int, str]) -> None:
        self.tensors, self.prefixes = tensors, prefixes
        self._positions: dict[tuple[int, int], str] = {}
        self._indices: list[Index] = []

    def groups(self, layers: Iterable[LayerLayout]) -> list[LayerGroup]:
        """All layers, grouped by layout."""
        groups: dict[tuple[str, tuple[LayoutRow, ...]], LayerGroup] = {}
        for layer in layers:
            key = about(layer), tuple(self._rows(layer))
            groups.setdefault(key, LayerGroup(*key)).layers.append(layer.index)
        return list(groups.values())

    def positions(self, slot: Slot) -> str:
        """The positions of a slot on its axis: all, one run, or runs at a constant distance."""
        key = id(slot.index), slot.size
        if key not in self._positions:
            self._indices.append(slot.index)  # keeps the id from being reused
            self._positions[key] = describe_positions(slot.index, slot.size)
        return self._positions[key]

    def _rows(self, layer: LayerLayout) -> list[LayoutRow]:
        rows = [
            LayoutRow(
                role, slot.tensor, str(slot.axis), self.positions(slot), parts(role, slot.index)
            )
            for role, slot in (_rotated(layer, *item) for item in slots_by_role(layer))
        ]
        rows += [
            LayoutRow(role, name, "", "whole", "one per head")
            for role, names in layer.head_tensors.items()
            for name in names
        ]
        if layer.experts is not None:
            split = expert_parts(layer.experts)
            rows += [
                LayoutRow("experts", name, "", "whole", split)
                for names in layer.experts.tensors
                for name in names
            ]
        listed = {row.tensor for row in rows}
        rows += [
            LayoutRow("noise", name, "", self._shape(name), "")
            for name in layer.noised
            if name not in listed
        ]
        rows += [LayoutRow("alone", name, "", self._shape(name), "") for name in layer.untouched]
        order = list(ROLES)
        prefix = self.prefixes[layer.index]
        short = [replace(row, tensor=row.tensor.removeprefix(prefix)) for row in rows]
        return sorted(_merged(short), key=lambda row: order.index(row.role))

    def _shape(self, name: str) -> str:
        return " × ".join(map(str, self.tensors[name].shape))


def slots_by_role(layer: LayerLayout) -> Iterator[tuple[str, Slot]]:
    """Every slot of a layer with its role: attention, feed-forward, router and stacked experts."""
    for by_role in (layer.slots, *layer.ffns):
        for role, slots in by_role.items():
            yield from ((role, slot) for slot in slots)
    if layer.experts is not None:
        branches = tuple(
            slot.tensor.removesuffix(".weight")
            for ffn in layer.ffns
            for slots in ffn.values()
            for slot in slots
        )
        for slot in layer.experts.slots:
            yield ("experts" if slot.tensor.startswith(branches) else "router"), slot


def _rotated(layer: LayerLayout, role: str, slot: Slot) -> tuple[str, Slot]:
    """Reduce the slots of q and k to the positions in RoPE planes."""
    if role not in {"q", "k"} or layer.planes.size == slot.index.shape[-1]:
        return role, slot
    return role, Slot(
        slot.tensor, slot.axis, slot.size, slot.index[..., np.sort(layer.planes.ravel())]
    )


def about(layer: LayerLayout) -> str:
    """Describe a layer in one line: heads, RoPE planes, experts, feed-forwards."""
    kv_heads, group, size = layer.slots["query_heads"][0].index.shape
    on = "" if group == 1 else f" on {count(kv_heads, 'key-value head')}"
    texts = [f"{count(kv_heads * group, 'query head')}{on} of {size}", _planes(layer)]
    experts = layer.experts
    of_experts: set[str] = set()
    if experts is not None:
        of_experts = {name for names in experts.tensors for name in names}
        of_experts |= {slot.tensor for slot in experts.slots}
        downs = (ffn["down"][0] for ffn in layer.ffns)
        units = next(down.index.size for down in downs if down.tensor in of_experts)
        grouped = f" in {experts.groups} groups" if experts.groups > 1 else ""
        texts.append(f"{experts.count} experts of {units} units{grouped}")
    shared = "shared " if experts else ""
    texts += [
        f"{shared}{'' if 'up' in ffn else 'ungated '}feed-forward of {ffn['down'][0].index.size}"
        " units"
        for ffn in layer.ffns
        if ffn["down"][0].tensor not in of_experts
    ]
    return ", ".join(texts)


def _planes(layer: LayerLayout) -> str:
    if not len(layer.planes):
        return "no RoPE"
    one_key = layer.slots["k"][0].index.shape[0] == 1 != layer.slots["v"][0].index.shape[0]
    return count(len(layer.planes), "RoPE plane") + (" of one key for all heads" if one_key else "")


def _merged(rows: list[LayoutRow]) -> list[LayoutRow]:
    """Merge numbered series of tensors into one row each, and weights with their biases."""
    series: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        numbers = _NUMBER.findall(row.tensor)
        name = _NUMBER.sub(".{}", row.tensor) if len(numbers) == 1 else row.tensor
        members = series.setdefault((row.role, name, row.axis, row.positions, row.parts), [])
        members += map(int, numbers) if len(numbers) == 1 else ()
    endings: dict[tuple[str, ...], list[str]] = {}
    for (role, name, *rest), members in series.items():
        stem, _, ending = name.replace("{}", span(members)).rpartition(".")
        endings.setdefault((role, stem, *rest), []).append(ending)
    return [
        LayoutRow(role, f"{stem}.{braced(names)}", *rest)
        for (role, stem, *rest), names in endings.items()
    ]
