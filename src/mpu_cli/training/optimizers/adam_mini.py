"""Adam-mini: Adam with one second moment a head of q, k and v, and an output row elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mpu_cli.training.optimizers import Groups, optimizer
from mpu_cli.training.optimizers._blocks import Blocks
from mpu_cli.training.optimizers._tensorwise import Tensorwise, adam


class AdamMini(Tensorwise):
    """Adam whose second moment averages the squared gradient over each block."""

    def __init__(self, groups: Groups, learning_rate: float, blocks: Blocks) -> None:
        """`blocks` has the model's heads."""
        self._blocks = blocks
        super().__init__(groups, learning_rate)

    def direction(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """m̂ / (√v̂ + ε), with one v for each block."""
        return adam(gradient, self._blocks.mean(name, gradient.square()), state)


@optimizer(
    source="Zhang et al. 2406.16793, algorithms 1 and 3; our own, in float32",
    smooth=True,
    commutes_with_rotations=True,
)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> Tensorwise:
    """β = (0.9, 0.999), ε = 1e-8; one second moment a token of embeddings, and a vector.

    The paper has one second moment an output row of v; here it is one a head, so that a rotation
    inside a head does not change the update.

    Raises:
        BadModelError: no data file describes this model, so its heads are unknown.
    """
    return AdamMini(groups, learning_rate, Blocks(config, "--optimizer adam-mini"))
