"""Membership by Min-K%++: Min-K% of log-probabilities that are normalised at each token.

(log p(y) − μ) / σ, with the mean and the standard deviation of log p under the model's own
distribution (Zhang et al., arXiv 2404.02936).
"""

import numpy as np

from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack
from mpu_cli.evaluation.metrics.membership_min_k import lowest_mean

_SMALLEST_VARIANCE = 1e-6
"""open-unlearning's bound, for tokens of which the model is certain."""


def min_k_plus_plus(row: Evidence) -> float:
    """The score in standard deviations; the end mark does not count."""
    words = row.words
    deviation = np.sqrt(np.maximum(words.deviation**2, _SMALLEST_VARIANCE))
    return -lowest_mean((words.log_p - words.expected) / deviation)


METRICS = attack(
    "min_k_plus_plus",
    "normalised loss of the lowest 40 % of tokens",
    "Zhang et al., arXiv 2404.02936",
    min_k_plus_plus,
)
