"""ROUGE-L of what the model writes against the answer, with rouge-score and its stemmer (Lin 2004; TOFU, MUSE).

The recall is TOFU's, the F1 measure MUSE's. Greedy generation, cut at the end of the turn.
"""

from functools import cache
from typing import Any

from mpu_cli.evaluation.metric import Evidence, RowMetric


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(reference: str, written: str) -> Any:
    """Precision, recall and fmeasure."""
    return _scorer().score(reference, written)["rougeL"]


def recall(row: Evidence) -> float:
    """The share of the answer's words that the model writes, in their order."""
    return float(rouge_l(row.target, row.written).recall)


def f1(row: Evidence) -> float:
    """The harmonic mean of that and its counterpart."""
    return float(rouge_l(row.target, row.written).fmeasure)


METRICS = (
    RowMetric(
        name="rouge_recall",
        about="ROUGE-L recall of greedy generation against the answer",
        source="Lin 2004; TOFU, arXiv 2401.06121, section 2.2.1",
        better="lower",
        item=recall,
        variants=(),
        generates=True,
        form="question",
    ),
)
