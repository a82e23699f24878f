"""Sampled leakage, leak@k: the best of k sampled answers instead of the greedy one.

n texts are sampled for each forget question. leak@k is the expected maximum of the ROUGE-L recall
over k of them, chosen without replacement: the unbiased estimate of the worst of k tries
(arXiv 2511.04934).
"""

from __future__ import annotations

from collections.abc import Collection
from math import comb

import numpy as np

from mpu_cli.evaluation.measured_rows import MeasuredRows
from mpu_cli.evaluation.metric import RowMetric, gaps
from mpu_cli.evaluation.metrics.rouge import NO_WORD, rouge_l_recall
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET
from mpu_cli.evaluation.robustness._check import Check
from mpu_cli.evaluation.sampling import Sampling
from mpu_cli.evaluation.statistics import Array


def expected_best(scores: Array, k: int) -> float:
    """The mean, over all subsets of k of n scores, of the largest score in the subset.

    The i-th smallest score is the largest in C(i − 1, k − 1) of the C(n, k) subsets.
    """
    ordered = np.sort(scores)
    weights = [comb(place, k - 1) for place in range(len(ordered))]
    return float(np.dot(ordered, weights) / comb(len(ordered), k))


def run(tested: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """leak@1, 2, 4 … up to the number of samples, on forget sets of questions."""
    settings = tested.settings
    sampling = Sampling(settings.samples, settings.temperature, settings.seed)
    measured = MeasuredRows()
    for rows in (rows for rows in tested.sets if rows.role == FORGET):
        if rows.has_texts or not settings.generate:
            measured.reasons[rows.name, "rouge_recall@leak"] = (
                "plain texts have no answers that could leak"
                if rows.has_texts
                else "needs generation (--no-generate)"
            )
            continue
        written = tested.continuations(rows, sampling=sampling)
        scores = [
            np.array([rouge_l_recall(question.answer_text, text) for text in texts])
            for question, texts in zip(rows.questions, written, strict=True)
        ]
        for k in (2**power for power in range(settings.samples.bit_length())):
            key = (rows.name, f"rouge_recall@leak-{k}")
            best = np.array([expected_best(row, k) for row in scores])
            if not np.isnan(best).all():
                measured.columns[key] = best
            if (left_out := gaps(best, NO_WORD)) is not None:
                measured.reasons[key] = left_out
    return measured


CHECK = Check(
    "leak",
    "leak@k: expected best ROUGE-L recall of k sampled answers (--samples, --temperature)",
    "arXiv 2511.04934",
    run,
)
