"""T_k of a layer and of a model, drawn from the secret."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream, derive_key
from mpu_cli.server.transforms import load
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.reparameterization import Reparameterization


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
