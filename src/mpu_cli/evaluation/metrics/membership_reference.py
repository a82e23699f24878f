"""Membership by reference.

The loss less that of another model, which never saw the rows (Carlini et al., arXiv 2112.03570).
"""

from mpu_cli.evaluation.columns import MissingInputError
from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.metrics._membership import attack


def relative_loss(row: Evidence) -> float:
    """Nats per token, below 0 where this model knows the row better.

    Raises:
        MissingInputError: no other model was given.
    """
    if row.reference is None:
        raise MissingInputError("no --reference model was given")
    return row.answer.mean_loss - row.reference.mean_loss


METRICS = attack(
    "reference",
    "mean loss less the reference model's",
    "Carlini et al., arXiv 2112.03570",
    relative_loss,
)
