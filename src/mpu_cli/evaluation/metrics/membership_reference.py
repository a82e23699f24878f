"""Membership by reference: the loss minus that of another model (arXiv 2112.03570)."""

from mpu_cli.evaluation.columns import MissingInputError
from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack


def relative_loss(row: Evidence) -> float:
    """The score in nats per token, below 0 if this model knows the row better.

    Raises:
        MissingInputError: no other model was given.
    """
    if row.reference is None:
        raise MissingInputError("no --reference model was given")
    return row.answer.mean_loss - row.reference.mean_loss


METRICS = attack(
    "reference",
    "mean loss minus the reference model's",
    "Carlini et al., arXiv 2112.03570",
    relative_loss,
)
