"""What adam-mini, adafactor and muon share: one rule a tensor, and decoupled weight decay."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from mpu_cli.training.optimizers import Groups

BETAS = (0.9, 0.999)
EPSILON = 1e-8
"""Added to a root mean square of the gradient.

It is not smaller because some biases have no effect (that of the keys, without RoPE). Their
gradient is rounding noise, which must not become a full step that differs between copies.
"""


class Tensorwise(torch.optim.Optimizer):
    """θ ← θ − lr · (weight_decay · θ + direction), tensor by tensor.

    A parameter without a gradient does not move. The state holds only tensors and plain numbers; a
    new optimizer that loads it gives the same bits.
    """

    def __init__(self, groups: Groups, learning_rate: float) -> None:
        """See `Groups`."""
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0})

    @abstractmethod
    def direction(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """What is subtracted times the learning rate, shaped as the gradient.

        `state["step"]` counts from 1.
        """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step; return what `closure` returns, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for name, parameter in zip(group["param_names"], group["params"], strict=True):
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                state["step"] = state.get("step", 0) + 1
                direction = self.direction(name, at_least_float32(parameter.grad), state)
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
        return loss


def adam(gradient: Tensor, square: Tensor, state: dict[str, Any]) -> Tensor:
    """Adam's direction m̂ / (√v̂ + ε) (Kingma and Ba 1412.6980, algorithm 1), shared v allowed.

    Args:
        gradient: of any shape.
        square: its square, averaged over entries that share v; broadcasts to the gradient.
        state: keeps `first` (as the gradient) and `second` (as the square), and has `step`.
    """
    if "first" not in state:
        state["first"], state["second"] = torch.zeros_like(gradient), torch.zeros_like(square)
    first: Tensor = state["first"].lerp_(gradient, 1 - BETAS[0])
    second: Tensor = state["second"].lerp_(square, 1 - BETAS[1])
    scale: Tensor = (second / (1 - BETAS[1] ** state["step"])).sqrt_().add_(EPSILON)
    return first / scale.mul_(1 - BETAS[0] ** state["step"])


def at_least_float32(gradient: Tensor) -> Tensor:
    """Raise half precision to float32; float64 stays, to measure the rounding of float32."""
    return gradient.float() if gradient.dtype.itemsize < 4 else gradient
