"""Membership by zlib: the answer's loss relative to its compressed size (arXiv 2012.07805)."""

import zlib

from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack


def loss_per_byte(row: Evidence) -> float:
    """Mean loss in nats per token, divided by the compressed length in bytes."""
    return row.answer.mean_loss / len(zlib.compress(row.text.encode()))


METRICS = attack(
    "zlib",
    "mean loss / bytes of the zlib-compressed answer",
    "Carlini et al., arXiv 2012.07805",
    loss_per_byte,
)
