"""ROUGE-L of what the model writes against the answer, by rouge-score (Lin 2004), in two settings that metrics' names tell apart.

*Stemmed*: words lose their English endings before they are compared; TOFU's evaluator and
open-unlearning's. *Not stemmed*: MUSE's evaluator. Both know the words of every script
(`words.py`). An answer without any word leaves its row out.
"""

import math
from functools import cache
from typing import Any

from mpu_cli.evaluation.metric import Evidence, RowMetric
from mpu_cli.evaluation.words import words

NO_WORD = "the answer has no word, only punctuation or symbols"


class _Words:
    """Our words under the name by which rouge-score asks for them."""

    def __init__(self, *, stem: bool) -> None:
        self._stem = stem

    def tokenize(self, text: str) -> list[str]:
        return words(text, stem=self._stem)


@cache
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words(stem=stem))


def rouge_l_recall(reference: str, written: str) -> float:
    """The share of the reference's stemmed words that were written, in their order.

    NaN where it has no word (`NO_WORD`).
    """
    return (
        float(_scorer(True).score(reference, written)["rougeL"].recall)
        if words(reference, stem=False)
        else math.nan
    )


def rouge_l_f1(reference: str, written: str, *, stem: bool) -> float:
    """The harmonic mean of recall and precision.

    NaN where the reference has no word (`NO_WORD`).
    """
    return (
        float(_scorer(stem).score(reference, written)["rougeL"].fmeasure)
        if words(reference, stem=False)
        else math.nan
    )


def f1(row: Evidence) -> float:
    """Of what should have been written and what was, words as they are (MUSE)."""
    return rouge_l_f1(row.target, row.written, stem=False)


def stemmed_f1(row: Evidence) -> float:
    """The same of stemmed words (open-unlearning)."""
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
