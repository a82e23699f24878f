"""What the published numbers really are, after rounding: measured while they are written.

The first SAMPLE entries of every block are measured, and one SAMPLE in EVERY after them: all of a small tensor, millions
of entries of a large one, at an eighth of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch

from mpu_cli.checkpoint.dtypes import TORCH_DTYPES

RECOVERABLE_WARNING = 0.5
SAMPLE = 65_536
EVERY = 8


class RealisedNoise:
    """Accumulates over tensors; `grid` is the dtype in which the model's own weights are exact."""

    def __init__(self, weights: Sequence[float], sigma_asked: Sequence[float], grid: str) -> None:
        self._weights = weights
        self._grid = TORCH_DTYPES[grid]
        self._asked = sigma_asked
        """Standard deviation asked of each copy's perturbation in units of its group's σ (the |coefficients|)."""
        self._ratio_squares = 0.0
        self._ratio_count = 0
        self._entries = 0
        self._changed = 0
        self._recovered = 0
        self._residual = 0.0
        self._squares = 0.0

    def add(
        self, original: torch.Tensor, target: torch.Tensor, published: Sequence[torch.Tensor], sigma: float
    ) -> None:
        """One block, flattened: θ, θ + ξ (float32), and the copies as published with T undone."""
        for start in range(0, len(original), SAMPLE * EVERY):
            part = slice(start, start + SAMPLE)
            self._add(original[part], target[part], [copy[part].float() for copy in published], sigma)

    def _add(
        self, original: torch.Tensor, target: torch.Tensor, published: Sequence[torch.Tensor], sigma: float
    ) -> None:
        mean = torch.zeros_like(target)
        for weight, asked, copy in zip(self._weights, self._asked, published, strict=True):
            error = copy - target
            mean.add_(error, alpha=weight)
            if sigma:
                self._ratio_squares += _squares(error) / (sigma * asked) ** 2
                self._ratio_count += error.numel()
            self._entries += copy.numel()
            changed = int(torch.count_nonzero(copy != original))
            self._changed += changed
            if self._grid == torch.float32:
                self._recovered += copy.numel() - changed
            else:
                self._recovered += int(torch.count_nonzero(copy.to(self._grid).float() == original))
        self._residual += _squares(mean)
        self._squares += _squares(original)

    def report(self) -> dict[str, float]:
        """The figures of the handoff record.

        `noise`: σ realised over σ asked (1 is right). `changed`: share of entries in the noised groups (measured ones) that differ
        from the model's. `recoverable`: share that rounding to the model's own grid gives back. `residual`:
        ‖Σ w_k (θ_k − θ − ξ)‖ / ‖θ‖, what denoising the copies themselves leaves.
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


def _squares(values: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(values)) ** 2
