"""Membership inference: whether a score tells the forget rows from rows that the model never saw.

A score is a loss: lower means more likely a member. The result is the area under the ROC curve of
forget rows against the holdout set: 1 where every member is recognised, 0.5 where none is. Below
0.5 the forget rows stand out as *worse* than unseen ones, which reveals them as well.
"""

from __future__ import annotations

from collections.abc import Callable

from mpu_cli.evaluation.metric import MEMBERSHIP, Evidence, ModelMetric, RowMetric
from mpu_cli.evaluation.questions import FORGET, HOLDOUT


def attack(
    name: str, about: str, source: str, item: Callable[[Evidence], float]
) -> tuple[RowMetric, ModelMetric]:
    """The metric of a row's score, and the metric `membership_NAME` of its area."""
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
