"""Exact memorization: the share of answer tokens that the model predicts first (arXiv 2205.10770).

Each token is predicted from the right tokens before it; the answer's end mark does not count
(Tirumala et al.).
"""

from mpu_cli.evaluation.metric import RowMetric

METRICS = (
    RowMetric(
        name="exact_memorization",
        about="share of the answer's tokens that are the model's first choice",
        source="Tirumala et al., arXiv 2205.10770, section 2",
        better="lower",
        item=lambda row: float(row.words.is_top.mean()),
    ),
)
