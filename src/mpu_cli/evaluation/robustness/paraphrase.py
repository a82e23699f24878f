"""The same questions in other words.

Forgetting that hangs on a question's wording is none (TOFU's paraphrased_question).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import MeasuredRows, ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, PARAPHRASED_QUESTION
from mpu_cli.evaluation.robustness._check import Check, together, under

CONDITION = "paraphrased"


def run(subject: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """Every metric of the answer or of what is written, on the forget set, asked otherwise."""
    plain = [
        metric
        for metric in metrics
        if metric.shown and {*metric.variants} <= {"answer"} and FORGET in metric.roles
    ]
    parts = []
    for each in (each for each in subject.sets if each.role == FORGET):
        if all(question.paraphrased_question for question in each.questions):
            parts.append(
                under(
                    CONDITION, subject.measure(plain, [replace(each)], asked="paraphrased question")
                )
            )
        else:
            parts.append(
                MeasuredRows(
                    reasons={
                        (
                            each.name,
                            f"answer_probability@{CONDITION}",
                        ): f"rows without {PARAPHRASED_QUESTION}"
                    }
                )
            )
    return together(parts)


CHECK = Check(
    "paraphrase",
    "the forget set's questions in other words",
    "TOFU, arXiv 2401.06121, section 2.1",
    run,
)
