"""Membership by Min-K%++.

As Min-K%, each token's log-probability normalised by what the model expected there.

Zhang et al., arXiv 2404.02936: (log p(y) − μ) / σ, with mean and standard deviation of log p under
the model's distribution.
"""

import numpy as np

from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack
from mpu_cli.evaluation.metrics.membership_min_k import lowest_mean

_SMALLEST_VARIANCE = 1e-6
"""Where a model is certain, nothing deviates; open-unlearning's bound."""


def min_k_plus_plus(row: Evidence) -> float:
    """In standard deviations; the end mark does not count."""
    words = row.words
    deviation = np.sqrt(np.maximum(words.deviation**2, _SMALLEST_VARIANCE))
    return -lowest_mean((words.log_p - words.expected) / deviation)


METRICS = attack(
    "min_k_plus_plus",
    "normalised loss of the lowest 40 % of tokens",
    "Zhang et al., arXiv 2404.02936",
    min_k_plus_plus,
)
