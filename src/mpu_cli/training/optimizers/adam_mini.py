"""Adam-mini: Adam whose second moment is shared by a head of q, k and v, and by an output row elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mpu_cli.training.optimizers import Groups, optimizer
from mpu_cli.training.optimizers._blocks import Blocks
from mpu_cli.training.optimizers._tensorwise import Tensorwise, adam


class AdamMini(Tensorwise):
    """Adam, with the square of the gradient averaged over each block before it enters the second moment."""

    def __init__(self, groups: Groups, learning_rate: float, blocks: Blocks) -> None:
        """`blocks` knows the model's heads."""
        self._blocks = blocks
        super().__init__(groups, learning_rate)

    def direction(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """m̂ / (√v̂ + ε), with one v for each block."""
        return adam(gradient, self._blocks.mean(name, gradient.square()), state)


@optimizer(source="Zhang et al. 2406.16793, algorithms 1 and 3; our own, in float32", smooth=True)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> Tensorwise:
    """β = (0.9, 0.999), ε = 1e-8.

    One second moment per token of embeddings, and per vector (a norm, a bias).

    The paper shares v's per output row; here per head, so that a rotation inside a head does not
    change the update.

    Raises:
        BadModelError: no data file describes this model, so its heads are not known.
    """
    return AdamMini(groups, learning_rate, Blocks(config, "--optimizer adam-mini"))
