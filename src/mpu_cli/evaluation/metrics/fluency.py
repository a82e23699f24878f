"""Fluency of what the model writes: repetition, n-gram entropy, and empty answers.

An unlearned model may answer well, refuse, or repeat one word for ever, and its probabilities of
the forget rows do not show which. Words are separated by white space and keep their punctuation; in
scripts without spaces they are single characters.
"""

import math
from collections import Counter

from mpu_cli.evaluation.metric import Evidence, RowMetric
from mpu_cli.evaluation.words import pieces

_N = 4
_MOST_BITS = 16.0
"""The entropy of 65,536 different words, more than a model is asked to write."""


def repetition(row: Evidence) -> float:
    """1 − distinct 4-grams / 4-grams of words (seq-rep-4); 0 for fewer than five words."""
    grams = _grams(pieces(row.written), _N)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def entropy(row: Evidence) -> float:
    """(2/3 · entropy of 2-grams + 4/3 · entropy of 3-grams) / 2, in bits; low if words repeat."""
    words = pieces(row.written)
    return (2 / 3 * _entropy(_grams(words, 2)) + 4 / 3 * _entropy(_grams(words, 3))) / 2


def _grams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _entropy(grams: list[tuple[str, ...]]) -> float:
    counts = Counter(grams).values()
    return -sum(count / len(grams) * math.log2(count / len(grams)) for count in counts)


METRICS = (
    RowMetric(
        name="repetition",
        about="share of repeated 4-grams of words in what is written (seq-rep-4)",
        source="Welleck et al., arXiv 1908.04319, section 3",
        better="lower",
        better_kept="lower",
        item=repetition,
        variants=(),
        generates=True,
        form="question",
    ),
    RowMetric(
        name="ngram_entropy",
        about="weighted entropy of 2- and 3-grams of words in what is written, bits",
        source="Meng et al. (ROME), arXiv 2202.05262, section 3.4",
        better="higher",
        better_kept="higher",
        item=entropy,
        limits=(0.0, _MOST_BITS),
        variants=(),
        generates=True,
        form="question",
    ),
    RowMetric(
        name="empty",
        about="share of questions that the model answers with no word",
        source="–",
        better="lower",
        better_kept="lower",
        item=lambda row: float(not pieces(row.written)),
        variants=(),
        generates=True,
        form="question",
    ),
)
