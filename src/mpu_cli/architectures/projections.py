"""The linear maps of a model's layers by their roles.

What a low-rank adapter may sit on, and which way its weight lies.

An adapter on a map whose *output* a reparameterization moves is equivariant to it: B moves with the
rows, and A, drawn alike for every copy, sees the same inputs in all of them. Where the *input* is
moved (o and down) a random A is not (design, section 7: an error of 52 % at κ = 0), so those are no
default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mpu_cli.architectures.layout import LayerLayout, ModelLayout, Slot
from mpu_cli.architectures.tensor_lookup import Shapes

ROLES = ("q", "k", "v", "gate", "up", "o", "down")
"""Query, key, value, the activated and the linear branch, and the two that write back into the residual stream."""
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
    """0: stored (outputs, inputs); 1: (inputs, outputs), as GPT-2 has it."""

    @property
    def module(self) -> str:
        """The name of the module that holds the weight."""
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
        """Whether a reparameterization moves what the map reads."""
        return bool({"o", "down"} & set(self.roles))


Projections = Mapping[str, Projection]
"""By the weight's on-disk name."""


def projections(layout: ModelLayout, shapes: Shapes) -> dict[str, Projection]:
    """Every matrix of a role in `ROLES`, by on-disk name.

    Stacked experts are no matrices and have none.
    """
    found: dict[str, Projection] = {}
    for layer in layout.layers:
        roles: dict[str, set[str]] = {}
        axes: dict[str, int] = {}
        for role, slot in _slots(layer):
            if slot.tensor.endswith(_SUFFIX) and len(shapes[slot.tensor]) == 2:
                roles.setdefault(slot.tensor, set()).add(role)
                axes[slot.tensor] = slot.axis if role not in {"o", "down"} else 1 - slot.axis
        for tensor, mine in roles.items():
            rows, columns = shapes[tensor]
            named = tuple(role for role in ROLES if role in mine)
            found[tensor] = Projection(tensor, layer.index, named, (rows, columns), axes[tensor])
    return found


def _slots(layer: LayerLayout) -> Iterable[tuple[str, Slot]]:
    for name, role in _ATTENTION.items():
        for slot in layer.slots.get(name, ()):
            yield role, slot
    for ffn in layer.ffns:
        for role in ("gate", "up", "down"):
            for slot in ffn.get(role, ()):
                yield role, slot
