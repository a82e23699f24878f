"""The linear maps of a model's layers by their roles: the targets of a low-rank adapter.

An adapter is equivariant to a reparameterization that moves the *outputs* of its map: B moves with
the rows, and A, which is the same in every copy, gets the same inputs. It is not where the *inputs*
move (o and down): a random A gave an error of 52 % at κ = 0, so o and down are no default targets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mpu_cli.architectures.layout import LayerLayout, ModelLayout, Slot
from mpu_cli.architectures.tensor_lookup import Shapes

ROLES = ("q", "k", "v", "gate", "up", "o", "down")
"""Query, key, value, both branches of a feed-forward, the two maps into the residual stream."""
_ATTENTION = {"q": "q", "q_free": "q", "k": "k", "k_free": "k", "v": "v", "o": "o"}
_SUFFIX = ".weight"


@dataclass(frozen=True, slots=True)
class Projection:
    """One weight matrix on disk."""

    tensor: str
    layer: int
    roles: tuple[str, ...]
    """In the order of `ROLES`; several where q, k and v or gate and up are fused."""
    shape: tuple[int, int]
    output_axis: int
    """0: stored as (outputs, inputs); 1: as (inputs, outputs), like GPT-2."""

    @property
    def module(self) -> str:
        """The name of the module that has the weight."""
        return self.tensor.removesuffix(_SUFFIX)

    @property
    def outputs(self) -> int:
        """How many outputs the map has."""
        return self.shape[self.output_axis]

    @property
    def inputs(self) -> int:
        """How many inputs the map has."""
        return self.shape[1 - self.output_axis]

    @property
    def moves_input(self) -> bool:
        """Whether a reparameterization moves the inputs of the map."""
        return bool({"o", "down"} & set(self.roles))


Projections = Mapping[str, Projection]
"""By the weight's on-disk name."""


def projections(layout: ModelLayout, shapes: Shapes) -> dict[str, Projection]:
    """Every matrix that has a role of `ROLES`, by on-disk name; stacked experts are no matrices."""
    by_name: dict[str, Projection] = {}
    for layer in layout.layers:
        roles: dict[str, set[str]] = {}
        axes: dict[str, int] = {}
        for role, slot in _slots(layer):
            if slot.tensor.endswith(_SUFFIX) and len(shapes[slot.tensor]) == 2:
                roles.setdefault(slot.tensor, set()).add(role)
                axes[slot.tensor] = slot.axis if role not in {"o", "down"} else 1 - slot.axis
        for tensor, unordered in roles.items():
            rows, columns = shapes[tensor]
            ordered = tuple(role for role in ROLES if role in unordered)
            by_name[tensor] = Projection(
                tensor, layer.index, ordered, (rows, columns), axes[tensor]
            )
    return by_name


def _slots(layer: LayerLayout) -> Iterable[tuple[str, Slot]]:
    for name, role in _ATTENTION.items():
        for slot in layer.slots.get(name, ()):
            yield role, slot
    for ffn in layer.ffns:
        for role in ("gate", "up", "down"):
            for slot in ffn.get(role, ()):
                yield role, slot
