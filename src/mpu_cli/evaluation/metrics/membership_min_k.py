"""Membership by Min-K% Prob: the mean over the least probable 40 % of tokens (arXiv 2310.16789).

Shi et al.; 40 % as in MUSE.
"""

import numpy as np

from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack
from mpu_cli.evaluation.statistics import Array

SHARE = 0.4


def lowest_mean(values: Array, share: float = SHARE) -> float:
    """The mean of the lowest `share` of the numbers, of one at least."""
    count = max(1, int(len(values) * share))
    return float(np.sort(values)[:count].mean())


def min_k(row: Evidence) -> float:
    """The score in nats per token; the end mark does not count."""
    return -lowest_mean(row.words.log_p)


METRICS = attack(
    "min_k", "loss of the least probable 40 % of tokens", "Shi et al., arXiv 2310.16789", min_k
)
