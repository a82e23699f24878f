"""Reparameterizations: transforms that move a layer's weights and keep its function.

One file per transform. Each has `draw(layer, stream) -> {tensor name: [axis map]}` and declares

* `EXACT`: undoing it returns the same bits in any dtype;
* `EQUIVARIANT`: optimizers under which training commutes with it, so that κ = 0 returns the plain update.

Whether a transform keeps a family's function is declared in the family's data file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

import torch

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.errors import UsageError
from mpu_cli.server.randomness import IntegerStream, derive_key
from mpu_cli.server.transforms.axis_maps import AxisMap

# Alternatives, in order of preference: the first that the family declares valid is taken.
REPARAMETERIZATIONS: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "signed-permutation": (
        ("head_permutation",),
        ("qk_quarter_turns", "qk_half_turns"),
        ("vo_signed_permutation",),
        ("ffn_permutation",),
    ),
    "rotation": (("plane_rotation",), ("ffn_permutation",)),
    "none": (),
}

Drawn = Mapping[str, list[AxisMap]]


class Transform(Protocol):
    """What a file in this folder provides."""

    EXACT: bool
    EQUIVARIANT: frozenset[str]

    def draw(self, layer: LayerLayout, stream: IntegerStream) -> Drawn:
        """Draw one random transform of a layer: axis maps by tensor name."""
        ...


def load(name: str) -> Transform:
    """Import one transform by its file name."""
    return cast(Transform, import_module(f"{__name__}.{name}"))


def chosen(reparameterization: str, valid: Mapping[str, bool], family: str) -> tuple[str, ...]:
    """The transforms that a reparameterization means for a family.

    Raises:
        UsageError: one of them would change the family's function.
    """
    names = []
    for alternatives in REPARAMETERIZATIONS[reparameterization]:
        name = next((name for name in alternatives if valid[name]), None)
        if name is None:
            raise UsageError(
                f"--reparam {reparameterization}: {alternatives[0]} changes the function of the {family} family",
                "use --reparam signed-permutation",
            )
        names.append(name)
    return tuple(names)


@dataclass(frozen=True, slots=True)
class Reparameterization:
    """T_k of one layer: per tensor, axis maps in the order in which they are applied."""

    maps: Mapping[str, tuple[AxisMap, ...]]

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """T(tensor); a tensor that T does not touch is returned itself."""
        for axis_map in self.maps.get(name, ()):
            tensor = axis_map.apply(tensor)
        return tensor

    def invert(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """T⁻¹(tensor)."""
        for axis_map in reversed(self.maps.get(name, ())):
            tensor = axis_map.inverse().apply(tensor)
        return tensor

    @property
    def exact(self) -> bool:
        """Whether T⁻¹T returns the same bits."""
        return all(axis_map.exact for maps in self.maps.values() for axis_map in maps)


def draw_layer(
    names: tuple[str, ...], layer: LayerLayout, master: bytes, draw_id: str, position: int
) -> Reparameterization:
    """Draw T_k of one layer for the copy at `position` (from 0) of a draw; a pure function of the secret."""
    maps: dict[str, tuple[AxisMap, ...]] = {}
    for name in names:
        stream = IntegerStream(derive_key(master, "transform", draw_id, position, layer.index, name))
        for tensor, steps in load(name).draw(layer, stream).items():
            maps[tensor] = (*maps.get(tensor, ()), *steps)
    return Reparameterization(maps)


def draw_model(
    names: tuple[str, ...], layers: Iterable[LayerLayout], master: bytes, draw_id: str, position: int
) -> dict[int, Reparameterization]:
    """T_k of every layer, by its index, for the copy at `position` of a draw."""
    return {layer.index: draw_layer(names, layer, master, draw_id, position) for layer in layers}
