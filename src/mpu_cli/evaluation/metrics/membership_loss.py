"""Membership by loss (Yeom et al., arXiv 1709.01604)."""

from mpu_cli.evaluation.metrics._membership import attack

METRICS = attack(
    "loss", "mean loss", "Yeom et al., arXiv 1709.01604", lambda row: row.answer.mean_loss
)
