"""Smoothing: take the forget gradient where the forget loss is highest nearby (SAM).

An unlearned model that lies in a sharp valley of the forget loss leaves it within a few steps of
relearning; smoothing looks for a flat place instead (Fan et al. 2502.05374).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class SplitLoss:
    """A loss whose two terms can be computed apart, each (model, batch) → scalar."""

    forget: Callable[[Any, Any], Tensor]
    """With its weight."""
    retain: Callable[[Any, Any], Tensor] | None
    """With its weight; None where nothing is retained."""

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """Their sum."""
        loss = self.forget(model, batch)
        return loss if self.retain is None else loss + self.retain(model, batch)


def smoothed_gradient(
    parameters: Iterable[Tensor],
    radius: float,
    *,
    ascend: Callable[[], None],
    forget: Callable[[], None],
    retain: Callable[[], None],
) -> None:
    """Leave ∇L_f(θ + ρ g/‖g‖) + ∇L_r(θ) in the parameters' `.grad`, where g = ∇L_f(θ).

    Fan et al. 2502.05374 minimise max_{‖δ‖₂ ≤ ρ} L_f(θ + δ) + λ L_r(θ), with SAM's first-order δ:
    one direction over all parameters together, for the forget loss alone. Weights come back to
    their bits, from a copy. Where g is 0, nothing is perturbed.

    Args:
        parameters: those that are trained; their `.grad` is empty.
        radius: ρ, in the weights' own units.
        ascend: adds g, the whole step's, to `.grad`; where several processes train, their mean.
        forget: the same again, at the weights that it finds.
        retain: adds the gradient of the retain loss, if there is one; it is called last.
    """
    trained = list(parameters)
    ascend()
    with torch.no_grad():
        start = [parameter.clone() for parameter in trained]
        slopes = [parameter.grad for parameter in trained]
        squares = [slope.double().square().sum() for slope in slopes if slope is not None]
        length = float(torch.stack(squares).sum().sqrt()) if squares else 0.0
        for parameter, slope in zip(trained, slopes, strict=True):
            if slope is not None and length:
                parameter.add_(slope, alpha=radius / length)
            parameter.grad = None
    try:
        forget()
    finally:
        with torch.no_grad():
            for parameter, value in zip(trained, start, strict=True):
                parameter.copy_(value)
    retain()
