"""Relearning: how many steps on a few forget rows restore the others.

AdamW with a constant rate on n of the forget rows, embeddings frozen, all n rows in every step. The
answer probability is measured on the *other* forget rows, at steps 0, 1, 2, 4, 8 …: what returns
there was hidden, not removed. A rate that is too low restores nothing in any model, so several
rates are tried, each from the same weights, and the worst one counts (Lynch et al.,
arXiv 2402.16835; Hu et al., arXiv 2406.13356).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.order import shuffled
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.measured_rows import MeasuredRows, together
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, QuestionSet
from mpu_cli.evaluation.relearned import PROBABILITY, WORST, condition, means_of, rate_name, worst
from mpu_cli.evaluation.robustness._check import Check
from mpu_cli.modeling.logprobs import token_counts, token_mean_nll


def run(tested: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """Answer probability of the rows that are not taught, by rate and step, and the worst one."""
    return together(_relearn(tested, rows) for rows in tested.sets if rows.role == FORGET)


def steps_measured(last: int) -> list[int]:
    """0, 1, 2, 4 … and the last."""
    return sorted({0, last, *(2**power for power in range(last.bit_length()))})


def _relearn(tested: ModelUnderTest, question_set: QuestionSet) -> MeasuredRows:
    settings, model = tested.settings, tested.model
    name, questions = question_set.name, question_set.questions
    count = min(settings.relearn_rows, len(questions) // 2)
    if not count:
        return MeasuredRows(reasons={(name, f"{PROBABILITY}@relearned"): "fewer than two rows"})
    order = shuffled(len(questions), f"relearn/{settings.seed}")
    taught, others = sorted(order[:count]), sorted(order[count:])
    rest = replace(question_set, questions=tuple(questions[i] for i in others))
    lesson = replace(question_set, questions=tuple(questions[i] for i in taught))
    batches = _batches(tested, lesson)
    parts = []

    def measure(step: int, rate: float) -> None:
        measured = tested.measure([row_metrics()[PROBABILITY]], [rest])
        parts.append(_spread(others, measured, len(questions)).under(condition(step, rate)))

    measure(0, 0.0)
    for rate in settings.relearn_rates:
        try:
            _teach(model, batches, rate, settings.relearn_steps, measure)
        # Logits that are not finite: the rate was too high and says nothing about the model.
        except BadModelError as error:
            key = name, f"{PROBABILITY}@relearned@{rate_name(rate)}"
            parts.append(MeasuredRows(reasons={key: f"training broke the model ({error})"}))
    measured = together(parts)
    highest = worst(means_of(measured.columns, name))
    if highest is not None:
        under = condition(highest.step, float(highest.rate))
        column = measured.columns[name, f"{PROBABILITY}@{under}"]
        measured.columns[name, f"{PROBABILITY}@{WORST}"] = column.copy()
    return measured


def _batches(tested: ModelUnderTest, lesson: QuestionSet) -> list[tuple[dict[str, Any], float]]:
    """The lesson's rows in batches, each with its share of the labelled tokens."""
    encoded = [text.encoded for text in tested.encoder.texts([lesson], ["answer"])]
    device = next(tested.model.parameters()).device
    filler, size = (
        pad_id(tested.tokenizer, embedding_rows(tested.model)),
        tested.settings.batch_size,
    )
    batches = [
        {key: value.to(device) for key, value in collate(encoded[at : at + size], filler).items()}
        for at in range(0, len(encoded), size)
    ]
    counts = [int(token_counts(batch["labels"]).sum()) for batch in batches]
    return [(batch, count / sum(counts)) for batch, count in zip(batches, counts, strict=True)]


def _teach(
    model: Any,
    batches: Sequence[tuple[dict[str, Any], float]],
    rate: float,
    steps: int,
    measure: Callable[[int, float], None],
) -> None:
    """Train for some steps and call `measure(step, rate)` at some of them.

    Afterwards the weights are restored bit for bit.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    originals = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    try:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            for batch, share in batches:
                torch.autograd.backward(token_mean_nll(model, batch) * share)
            optimizer.step()
            if step in steps_measured(steps):
                measure(step, rate)
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, original in zip(trained, originals, strict=True):
                parameter.copy_(original)


def _spread(rows: list[int], measured: MeasuredRows, total: int) -> MeasuredRows:
    """Columns over all rows of the set, NaN for those that were taught."""
    for key, values in measured.columns.items():
        measured.columns[key] = np.full(total, np.nan)
        measured.columns[key][rows] = values
    return measured


CHECK = Check(
    "relearning",
    "answer probability of the other forget rows after k steps on n of them, at several rates and"
    " at the worst of these (--relearn-rows, --relearn-steps, --relearn-rate)",
    "Lynch et al., arXiv 2402.16835; Hu et al., arXiv 2406.13356",
    run,
)
