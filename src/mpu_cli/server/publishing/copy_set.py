"""What decides the bytes of one draw's copies θ_k = T_k(θ + ξ + α_k ε_k)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mpu_cli.architectures.layout import LayerLayout, ModelLayout
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.server.publishing.noise import NoiseDraw
from mpu_cli.server.transforms.draw import DrawnLayers, draw_layer, draw_model
from mpu_cli.server.transforms.reparameterization import Reparameterization

Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much of it is done, and its total."""


@dataclass(frozen=True, slots=True)
class CopySet:
    """The copies of one draw: two equal sets give the same bytes."""

    model: Checkpoint
    """What is sent of the model: all of it, or its lower layers."""
    layout: ModelLayout
    scope: str
    transforms: tuple[str, ...]
    draw: NoiseDraw
    dtype: str
    shard_bytes: int
    stand_ins: Mapping[str, TensorInfo] = field(default_factory=dict)
    """Tensors of a cut handoff that hold a constant in place of the model's numbers."""

    @property
    def size(self) -> int:
        """m, the number of copies."""
        return self.draw.size

    def layer_transforms(self, layer: LayerLayout) -> list[Reparameterization]:
        """T_k of one layer, by position of the copy."""
        return [
            draw_layer(self.transforms, layer, self.draw.master, self.draw.id, position)
            for position in range(self.size)
        ]

    def model_transforms(self) -> list[DrawnLayers]:
        """T_k of all layers, by position of the copy; each layer is drawn when it is read."""
        return [
            draw_model(
                self.transforms, self.layout.layers, self.draw.master, self.draw.id, position
            )
            for position in range(self.size)
        ]
