"""The forget set's questions in other words (TOFU's paraphrased_question).

A model that answers the paraphrase has not forgotten the answer, only the wording of its question.
"""

from __future__ import annotations

from collections.abc import Collection

from mpu_cli.evaluation.measured_rows import MeasuredRows, together
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, PARAPHRASED_QUESTION
from mpu_cli.evaluation.robustness._check import Check

CONDITION = "paraphrased"


def run(tested: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """Every metric of the answer or of the written text, on the paraphrased forget questions."""
    chosen = [
        metric
        for metric in metrics
        if metric.shown and {*metric.variants} <= {"answer"} and FORGET in metric.roles
    ]
    parts = []
    for rows in (rows for rows in tested.sets if rows.role == FORGET):
        if all(question.paraphrased_question for question in rows.questions):
            measured = tested.measure(chosen, [rows], asked="paraphrased question")
            parts.append(measured.under(CONDITION))
        else:
            key = rows.name, f"answer_probability@{CONDITION}"
            parts.append(MeasuredRows(reasons={key: f"rows without {PARAPHRASED_QUESTION}"}))
    return together(parts)


CHECK = Check(
    "paraphrase",
    "the forget set's questions in other words",
    "TOFU, arXiv 2401.06121, section 2.1",
    run,
)
