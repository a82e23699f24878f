"""A layout's fingerprint.

T_k is drawn from a layout, so the layout must be the same when a copy is published and when its
update is aggregated.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from mpu_cli.architectures.layout import Index, LayerLayout, ModelLayout, Slot


def fingerprint(layout: ModelLayout) -> str:
    """SHA-256 over the slots, planes, feed-forwards, experts and head tensors of all layers."""
    return _Hasher().model(layout)


class _Hasher:
    def __init__(self) -> None:
        # Layers share their index arrays: each is hashed once.
        self._known: dict[int, tuple[Index, str]] = {}

    def model(self, layout: ModelLayout) -> str:
        total = hashlib.sha256()
        for layer in layout.layers:
            total.update(json.dumps(self._layer(layer), sort_keys=True).encode() + b"\n")
        return total.hexdigest()

    def _layer(self, layer: LayerLayout) -> list[object]:
        experts = layer.experts
        return [
            layer.index,
            {role: self._slots(slots) for role, slots in layer.slots.items()},
            self._index(layer.planes),
            [{role: self._slots(slots) for role, slots in ffn.items()} for ffn in layer.ffns],
            (
                [self._slots(experts.slots), experts.tensors, experts.groups, experts.count]
                if experts
                else None
            ),
            dict(layer.head_tensors),
        ]

    def _slots(self, slots: Iterable[Slot]) -> list[list[object]]:
        return [[slot.tensor, slot.axis, slot.size, self._index(slot.index)] for slot in slots]

    def _index(self, index: Index) -> str:
        known = self._known.get(id(index))
        if known is None:
            digest = hashlib.sha256(
                json.dumps(index.shape).encode() + index.astype("<i8").tobytes()
            ).hexdigest()
            # The array is kept so that no other gets its id.
            known = self._known[id(index)] = (index, digest)
        return known[1]
