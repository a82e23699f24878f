"""Membership inference: can the forget rows be told from rows that the model never saw, by a score of each?

A score is a loss: lower means more likely a member. The result is the area under the ROC curve of
forget rows against the holdout set: 1 where every member is recognised, 0.5 where none is; below
0.5 the forget rows stand out as *worse* than unseen ones, which gives them away as well.
"""

from __future__ import annotations

from collections.abc import Callable

from mpu_cli.evaluation.metric import MEMBERSHIP, Evidence, ModelMetric, RowMetric
from mpu_cli.evaluation.questions import FORGET, HOLDOUT


def attack(
    name: str, about: str, source: str, item: Callable[[Evidence], float]
) -> tuple[RowMetric, ModelMetric]:
    """The score of a row under a name, and the area `membership_NAME` that it gives."""
    score = RowMetric(
        name=name,
        about=about,
        source=source,
        better="–",
        roles=MEMBERSHIP,
        item=item,
        shown=False,
    )
    area = ModelMetric(
        name=f"membership_{name}",
        about=f"area under the ROC curve, forget against holdout rows, by {about}",
        source=source,
        better="0.5",
        uses=(name,),
        value=lambda columns: columns.area(FORGET, HOLDOUT, name),
    )
    return score, area
