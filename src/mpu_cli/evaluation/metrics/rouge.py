"""ROUGE-L of what the model writes against the answer, by rouge-score (Lin 2004), in two settings.

*Stemmed*, as in TOFU's evaluator and open-unlearning: words lose their English endings before they
are compared. *Not stemmed*, as in MUSE's evaluator. The names of metrics say which one they use.
Both know the words of every script (`words.py`). An answer without any word leaves its row out.
"""

import math
from functools import cache
from typing import Any

from mpu_cli.evaluation.metric import Evidence, RowMetric
from mpu_cli.evaluation.words import words

NO_WORD = "the answer has no word, only punctuation or symbols"


class _Words:
    """`words` as a tokenizer of rouge-score."""

    def __init__(self, *, stem: bool) -> None:
        self._stem = stem

    def tokenize(self, text: str) -> list[str]:
        return words(text, stem=self._stem)


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words(stem=stem))


def rouge_l_recall(reference: str, written: str) -> float:
    """The share of the reference's stemmed words that were written in order; NaN if it has none."""
    return (
        float(_scorer(True).score(reference, written)["rougeL"].recall)
        if words(reference, stem=False)
        else math.nan
    )


def rouge_l_f1(reference: str, written: str, *, stem: bool) -> float:
    """The harmonic mean of recall and precision; NaN if the reference has no word."""
    return (
        float(_scorer(stem).score(reference, written)["rougeL"].fmeasure)
        if words(reference, stem=False)
        else math.nan
    )


def f1(row: Evidence) -> float:
    """F1 of the words as they are (MUSE)."""
    return rouge_l_f1(row.target, row.written, stem=False)


def stemmed_f1(row: Evidence) -> float:
    """F1 of stemmed words (open-unlearning)."""
    return rouge_l_f1(row.target, row.written, stem=True)


METRICS = (
    RowMetric(
        name="rouge_recall",
        about="ROUGE-L recall of greedy generation against the answer, words stemmed",
        source="Lin 2004; TOFU, arXiv 2401.06121, section 2.2.1",
        better="lower",
        item=lambda row: rouge_l_recall(row.target, row.written),
        variants=(),
        generates=True,
        form="question",
        gap=NO_WORD,
    ),
)
