"""Normalised probability: the right answer's share among the given answers.

TOFU, arXiv 2401.06121, section 2.2.1.
"""

from mpu_cli.evaluation.metric import Evidence, RowMetric, probability


def share(row: Evidence) -> float:
    """P(answer) / (P(answer) + Σ P(wrong answers)), each p^(1/tokens), between 0 and 1."""
    right, wrong = probability(row.answer), sum(probability(answer) for answer in row.wrong)
    return right / (right + wrong) if right + wrong > 0 else 0.0


METRICS = (
    RowMetric(
        name="normalised_probability",
        about="P(answer) / (P(answer) + Σ P(perturbed_answer)), each as answer_probability",
        source="TOFU, arXiv 2401.06121, section 2.2.1",
        better="lower",
        item=share,
        variants=("answer", "perturbed answers"),
    ),
)
