"""Sampled leakage: the best of k drawn answers, not the one that greedy decoding happens to give (leak@k, arXiv 2511.04934).

n texts are drawn for each forget question; leak@k is the expected largest ROUGE-L recall among k of
them drawn without replacement, the unbiased estimate of the worst of k tries.
"""

from __future__ import annotations

from collections.abc import Collection
from math import comb

import numpy as np

from mpu_cli.evaluation.metric import Array, RowMetric, gaps
from mpu_cli.evaluation.metrics.rouge import NO_WORD, rouge_l_recall
from mpu_cli.evaluation.model_under_test import MeasuredRows, ModelUnderTest
from mpu_cli.evaluation.questions import FORGET
from mpu_cli.evaluation.robustness._check import Check
from mpu_cli.evaluation.sampling import Sampling


def expected_best(scores: Array, k: int) -> float:
    """The mean over all subsets of k of n scores of their largest.

    The i-th smallest is it in C(i − 1, k − 1) of C(n, k).
    """
    ordered = np.sort(scores)
    weights = [comb(place, k - 1) for place in range(len(ordered))]
    return float(np.dot(ordered, weights) / comb(len(ordered), k))


def run(subject: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """leak@1, 2, 4 … up to the number of samples, on forget sets of questions."""
    settings = subject.settings
    found = MeasuredRows()
    tries = [
        2**power for power in range(settings.samples.bit_length()) if 2**power <= settings.samples
    ]
    for each in (each for each in subject.sets if each.role == FORGET):
        if any(question.row.text is not None for question in each.questions):
            found.reasons[each.name, "rouge_recall@leak"] = "plain texts have no answers to leak"
            continue
        if not settings.generate:
            found.reasons[each.name, "rouge_recall@leak"] = "needs generation (--no-generate)"
            continue
        sampling = Sampling(settings.samples, settings.temperature, settings.seed)
        written = subject.continuations(each, sampling=sampling)
        scores = [
            np.array([rouge_l_recall(question.answer_text, text) for text in texts])
            for question, texts in zip(each.questions, written, strict=True)
        ]
        for k in tries:
            key = (each.name, f"rouge_recall@leak-{k}")
            best = np.array([expected_best(row, k) for row in scores])
            if not np.isnan(best).all():
                found.columns[key] = best
            if (left_out := gaps(best, NO_WORD)) is not None:
                found.reasons[key] = left_out
    return found


CHECK = Check(
    "leak",
    "leak@k: expected best ROUGE-L recall of k sampled answers (--samples, --temperature)",
    "arXiv 2511.04934",
    run,
)
