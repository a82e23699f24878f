"""Answer probability: p(answer | question)^(1/tokens) (TOFU, arXiv 2401.06121, section 2.2.1)."""

from mpu_cli.evaluation.metric import RowMetric, probability

METRICS = (
    RowMetric(
        name="answer_probability",
        about="exp(−mean loss of the answer's tokens)",
        source="TOFU, arXiv 2401.06121, section 2.2.1",
        better="lower",
        item=lambda row: probability(row.answer),
    ),
)
