"""A model's scores of one text, token by token, as plain arrays.

This module never imports torch, so records are compared without it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Scores of the N labelled tokens y_t of one text, each array (N,)."""

    log_p: NDArray[np.float64]
    """log p(y_t | y_<t), in nats."""
    is_top: NDArray[np.bool_]
    """Whether y_t is the most probable token."""
    expected: NDArray[np.float64]
    """Mean of log p(· | y_<t) under the model's own distribution: its negative entropy, in nats."""
    deviation: NDArray[np.float64]
    """Standard deviation of log p(· | y_<t) under the model's own distribution."""

    def __len__(self) -> int:
        """N."""
        return len(self.log_p)

    def head(self, count: int) -> TokenScores:
        """The scores of the first `count` tokens."""
        return TokenScores(
            self.log_p[:count], self.is_top[:count], self.expected[:count], self.deviation[:count]
        )

    @property
    def mean_loss(self) -> float:
        """Mean negative log-likelihood, in nats per token."""
        return float(-self.log_p.mean())
