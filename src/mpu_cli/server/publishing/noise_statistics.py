"""What the published numbers really are, after rounding.

Measured on every entry while it is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch

from mpu_cli.checkpoint.dtypes import TORCH_DTYPES

RECOVERABLE_WARNING = 0.5
RESIDUAL_WARNING = 5e-4
"""Of the weights. Copies in bfloat16 leave 1.2e-3 (two), 9.8e-4 (three), 7.5e-4 (five), in float16 1.5e-4, in float32 2e-8."""
_PIECE = 65_536
"""Entries measured at once: they stay in the processor's cache."""


class RealisedNoise:
    """Accumulates over tensors; `grid` is the dtype in which the model's own weights are exact."""

    def __init__(self, weights: Sequence[float], sigma_asked: Sequence[float], grid: str) -> None:
        self._weights = weights
        self._grid = TORCH_DTYPES[grid]
        self._asked = sigma_asked
        """Standard deviation asked of each copy's perturbation in units of its group's σ (the |coefficients|)."""
        self._memory = torch.empty(3, _PIECE)
        self._ratio_squares = 0.0
        self._ratio_count = 0
        self._entries = 0
        self._changed = 0
        self._recovered = 0
        self._residual = 0.0
        self._squares = 0.0

    def add(
        self,
        original: torch.Tensor,
        target: torch.Tensor,
        published: Sequence[torch.Tensor],
        sigma: float,
    ) -> None:
        """One block, flattened: θ, θ + ξ (float32), and the copies as published with T undone."""
        for start in range(0, len(original), _PIECE):
            part = slice(start, start + _PIECE)
            self._add(original[part], target[part], [copy[part] for copy in published], sigma)

    def _add(
        self,
        original: torch.Tensor,
        target: torch.Tensor,
        published: Sequence[torch.Tensor],
        sigma: float,
    ) -> None:
        length = len(original)
        error, mean, wide = (memory[:length] for memory in self._memory)
        mean.zero_()
        for weight, asked, stored in zip(self._weights, self._asked, published, strict=True):
            copy = stored if stored.dtype == torch.float32 else wide.copy_(stored)
            torch.sub(copy, target, out=error)
            mean.add_(error, alpha=weight)
            if sigma:
                self._ratio_squares += _squares(error) / (sigma * asked) ** 2
                self._ratio_count += length
            self._entries += length
            # numpy compares and counts five times faster than torch.
            changed = int(np.count_nonzero(copy.numpy() != original.numpy()))
            self._changed += changed
            if self._grid == torch.float32:
                self._recovered += length - changed
            else:
                rounded = wide.copy_(copy.to(self._grid))
                self._recovered += int(np.count_nonzero(rounded.numpy() == original.numpy()))
        self._residual += _squares(mean)
        self._squares += _squares(original)

    def report(self) -> dict[str, float]:
        """The figures of the handoff record.

        `noise`: σ realised over σ asked (1 is right). `changed`: share of entries in the noised
        groups that differ from the model's. `recoverable`: share that rounding to the model's own
        grid gives back. `residual`: ‖Σ w_k (θ_k − θ − ξ)‖ / ‖θ‖, what denoising the copies
        themselves leaves.
        """
        entries = max(self._entries, 1)
        report = {
            "changed": self._changed / entries,
            "recoverable": self._recovered / entries,
            "residual": sqrt(self._residual / self._squares) if self._squares else 0.0,
        }
        if self._ratio_count:
            report["noise"] = sqrt(self._ratio_squares / self._ratio_count)
        return report


def cancels_badly(copies: int, dtype: str, residual: float) -> list[str]:
    """For a dtype that was asked for: a warning if several copies' noise does not cancel.

    `residual` is `RealisedNoise.report`'s.
    """
    if copies == 1 or residual < RESIDUAL_WARNING:
        return []
    return [
        f"stored as {dtype} the copies' noise cancels only to {residual:.1e} of the weights:"
        " rounding adds an error of first order to the update that no denoising takes out; --dtype"
        " float32 publishes copies whose noise cancels"
    ]


def _squares(values: torch.Tensor) -> float:
    return float(torch.dot(values, values))
