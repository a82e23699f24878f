"""Truth ratio, in both definitions in use, each under its own name.

`truth_ratio` is TOFU's (arXiv 2401.06121, section 2.2.2) as its code and open-unlearning compute
it: R = exp(−mean loss of the wrong answers) / exp(−loss of the paraphrased answer). The mean over
wrong answers is taken of losses, a geometric mean, where the paper's formula has the arithmetic
one. A row of the forget set has min(R, 1/R), close to 1 if it is forgotten; any other row has
max(0, 1 − R). `truth_probability` is P(right) / (P(right) + P(wrong)) = 1 / (1 + R), which
open-unlearning calls prob_mean: one formula for all sets, 0.5 where right and wrong are alike.
"""

import math

import numpy as np

from mpu_cli.evaluation.metric import Evidence, RowMetric
from mpu_cli.evaluation.questions import FORGET
from mpu_cli.evaluation.statistics import Array

_LARGEST = 700.0
"""exp of a larger number overflows; exp of its negative is not 0, so it has an inverse."""


def ratio(row: Evidence) -> float:
    """R; above 1 the model prefers wrong answers."""
    wrong = sum(answer.mean_loss for answer in row.wrong) / len(row.wrong)
    return math.exp(max(-_LARGEST, min(row.correct.mean_loss - wrong, _LARGEST)))


def closeness(ratios: Array, role: str) -> Array:
    """What each row adds to the mean, from R, which is 0 only in another tool's record."""
    with np.errstate(divide="ignore"):
        return np.minimum(ratios, 1 / ratios) if role == FORGET else np.maximum(0.0, 1 - ratios)


_VARIANTS = ("answer", "paraphrased answer", "perturbed answers")
_SOURCE = "TOFU, arXiv 2401.06121, section 2.2.2; open-unlearning"

METRICS = (
    RowMetric(
        name="truth_ratio",
        about="R = P(perturbed) / P(paraphrased); forget: min(R, 1/R), other sets: max(0, 1 − R)",
        source=_SOURCE,
        better="higher",
        better_kept="higher",
        item=lambda row: float(closeness(np.array(ratio(row)), row.role)),
        variants=_VARIANTS,
    ),
    RowMetric(
        name="truth_probability",
        about="P(paraphrased) / (P(paraphrased) + P(perturbed)) = 1 / (1 + R)",
        source="open-unlearning (prob_mean, its pull request 163)",
        better="–",
        item=lambda row: 1 / (1 + ratio(row)),
        variants=_VARIANTS,
    ),
    RowMetric(
        name="ratio",
        about="R itself",
        source=_SOURCE,
        better="–",
        item=ratio,
        variants=_VARIANTS,
        shown=False,
    ),
)
