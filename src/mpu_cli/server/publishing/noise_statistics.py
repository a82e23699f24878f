"""Statistics of the noise in the published files, after rounding, over every entry written."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import torch

from mpu_cli.checkpoint.dtypes import TORCH_DTYPES

_PIECE = 65_536
"""Entries computed with at once: they stay in the processor's cache."""


class NoiseStatistics:
    """Accumulates over blocks."""

    def __init__(
        self, weights: Sequence[float], coefficients: Sequence[float], model_dtype: str
    ) -> None:
        """Begin without any entry.

        Args:
            weights: w_k of each copy.
            coefficients: α or node of each copy.
            model_dtype: the narrowest dtype that holds the model's weights exactly, as F32.
        """
        self._weights = weights
        self._scales = [abs(value) for value in coefficients]
        self._model_dtype = TORCH_DTYPES[model_dtype]
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
        """Add one flattened block: θ, θ + ξ (float32), and the published copies with T undone."""
        for start in range(0, len(original), _PIECE):
            part = slice(start, start + _PIECE)
            values, length = original[part], len(original[part])
            error, mean, wide = (memory[:length] for memory in self._memory)
            mean.zero_()
            for weight, scale, stored in zip(self._weights, self._scales, published, strict=True):
                narrow = stored[part]
                copy = narrow if narrow.dtype == torch.float32 else wide.copy_(narrow)
                torch.sub(copy, target[part], out=error)
                mean.add_(error, alpha=weight)
                if sigma:
                    self._ratio_squares += _squares(error) / (sigma * scale) ** 2
                    self._ratio_count += length
                self._entries += length
                # numpy compares and counts five times faster than torch.
                changed = int(np.count_nonzero(copy.numpy() != values.numpy()))
                self._changed += changed
                if self._model_dtype == torch.float32:
                    self._recovered += length - changed
                else:
                    rounded = wide.copy_(copy.to(self._model_dtype))
                    self._recovered += int(np.count_nonzero(rounded.numpy() == values.numpy()))
            self._residual += _squares(mean)
            self._squares += _squares(values)

    def report(self) -> dict[str, float]:
        """The numbers of the handoff record.

        Returns:
            `noise`: measured σ over the σ asked for (1 is right). `changed`: share of the entries
            in groups with noise that differ from the model's. `recoverable`: share that rounding
            to the model's own number grid gives back. `residual`: ‖Σ w_k (θ_k − θ − ξ)‖ / ‖θ‖,
            what denoising the copies themselves leaves.
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
    return float(torch.dot(values, values))
