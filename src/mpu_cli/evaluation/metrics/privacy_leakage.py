"""Privacy leakage: how far membership is from that of a model that never saw the forget set.

MUSE, arXiv 2407.06460, section 3.1: PrivLeak = (A − A_retrain) / A_retrain · 100, by Min-K%. MUSE's
A is 1 − the area used here: that of a test which calls *high* losses members, small where rows are
remembered. 0 is a model like the retrained one; below 0 forget rows are still recognised; above 0
they are forgotten so thoroughly that it shows.
"""

from typing import Any

from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.metric import ModelMetric
from mpu_cli.evaluation.questions import FORGET, HOLDOUT

_TINY = 1e-10
"""open-unlearning's guard against a division by zero."""


def leakage(columns: Columns) -> Any:
    """PrivLeak, in per cent."""
    ours, retrained = (
        1 - model.area(FORGET, HOLDOUT, "min_k") for model in (columns, columns.retained())
    )
    return (ours - retrained) / (retrained + _TINY) * 100


METRICS = (
    ModelMetric(
        name="privacy_leakage",
        about="(A − A_retrain) / A_retrain · 100 per cent, A = 1 − membership_min_k",
        source="MUSE, arXiv 2407.06460, section 3.1 (PrivLeak)",
        better="0",
        uses=("min_k",),
        value=leakage,
    ),
)
