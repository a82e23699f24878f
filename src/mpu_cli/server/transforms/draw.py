"""T_k of a layer and of a model: drawn from the secret, applied to tensors and inverted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream, derive_key
from mpu_cli.server.transforms import load
from mpu_cli.server.transforms.axis_maps import AxisMap

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Reparameterization:
    """One transform of one layer, or all of them (T_k), by the names of θ's tensors."""

    maps: Mapping[str, Sequence[AxisMap]]
    """In the order of application."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """For tensors that change places whole (experts): the name in the copy, by the name in θ."""

    def target(self, name: str) -> str:
        """The name of T(θ's tensor `name`) in the copy."""
        return self.targets.get(name, name)

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
    """T_k of one layer for the copy at `position` (from 0) of a draw: a function of the secret."""
    maps: dict[str, list[AxisMap]] = {}
    targets: dict[str, str] = {}
    for name in names:
        stream = IntegerStream(
            derive_key(master, "transform", draw_id, position, layer.index, name)
        )
        drawn = load(name).draw(layer, stream)
        for tensor, steps in drawn.maps.items():
            maps.setdefault(tensor, []).extend(steps)
        targets.update(drawn.targets)  # no two transforms move the same tensor
    return Reparameterization(maps, targets)


class DrawnLayers(Mapping[int, Reparameterization]):
    """T_k of every layer by its index, drawn when needed; only the latest stays in memory.

    All maps of a large model take gigabytes, and its tensors are processed layer by layer.
    """

    def __init__(
        self, layers: Iterable[LayerLayout], draw: Callable[[LayerLayout], Reparameterization]
    ) -> None:
        self._layers = {layer.index: layer for layer in layers}
        self._draw = lru_cache(maxsize=1)(lambda index: draw(self._layers[index]))

    def __getitem__(self, index: int) -> Reparameterization:
        return self._draw(index)

    def __iter__(self) -> Iterator[int]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)


def draw_model(
    names: tuple[str, ...],
    layers: Iterable[LayerLayout],
    master: bytes,
    draw_id: str,
    position: int,
) -> DrawnLayers:
    """T_k of every layer for the copy at `position` of a draw."""
    return DrawnLayers(layers, lambda layer: draw_layer(names, layer, master, draw_id, position))
