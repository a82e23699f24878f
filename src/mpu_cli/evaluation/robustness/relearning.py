"""Relearning: how few steps on a few forget rows bring the others back (Lynch et al., arXiv 2402.16835; Hu et al., arXiv 2406.13356).

AdamW with a constant rate on n of the forget rows, embeddings frozen, a batch of all n rows a step;
the answer probability is measured on the *other* forget rows, at steps 0, 1, 2, 4, 8 …: what comes
back there was hidden, not gone. One rate says little, since too low a one brings nothing back from
any model: every rate begins with the same weights, and the worst counts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.order import shuffled
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import MeasuredRows, ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, QuestionSet
from mpu_cli.evaluation.relearned import PROBABILITY, WORST, condition, means_of, rate_name, worst
from mpu_cli.evaluation.robustness._check import Check, together, under
from mpu_cli.modeling.logprobs import token_counts, token_mean_nll


def run(subject: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """Answer probability of the rows that are not relearned, by rate and step, and the worst of these."""
    return together([_relearn(subject, each) for each in subject.sets if each.role == FORGET])


def steps_measured(last: int) -> list[int]:
    """0, 1, 2, 4 … and the last."""
    return sorted({0, last, *(2**power for power in range(last.bit_length()) if 2**power <= last)})


def _relearn(subject: ModelUnderTest, each: QuestionSet) -> MeasuredRows:
    settings = subject.settings
    count = min(settings.relearn_rows, len(each.questions) // 2)
    if not count:
        return MeasuredRows(
            reasons={(each.name, "answer_probability@relearned"): "fewer than two rows"}
        )
    order = shuffled(len(each.questions), f"relearn/{settings.seed}")
    taught, others = sorted(order[:count]), sorted(order[count:])
    rest = replace(each, questions=tuple(each.questions[i] for i in others))
    lesson = replace(each, questions=tuple(each.questions[i] for i in taught))
    encoded = [text.encoded for text in subject.encoder.texts([lesson], ["answer"])]
    model = subject.model
    device, filler = (
        next(model.parameters()).device,
        pad_id(subject.tokenizer, embedding_rows(model)),
    )
    batches = [
        {
            name: value.to(device)
            for name, value in collate(encoded[at : at + settings.batch_size], filler).items()
        }
        for at in range(0, len(encoded), settings.batch_size)
    ]
    counts = [int(token_counts(batch["labels"]).sum()) for batch in batches]
    shares = [count / sum(counts) for count in counts]
    parts = []

    def measure(step: int, rate: float) -> None:
        measured = subject.measure([row_metrics()[PROBABILITY]], [rest])
        parts.append(under(condition(step, rate), _only(others, measured, len(each.questions))))

    measure(0, 0.0)
    for rate in settings.relearn_rates:
        try:
            _teach(model, batches, shares, rate, settings.relearn_steps, measure)
        # logits that are not finite: the rate was too high, and says nothing of the model
        except BadModelError as error:
            key = each.name, f"{PROBABILITY}@relearned@{rate_name(rate)}"
            parts.append(MeasuredRows(reasons={key: f"training broke the model ({error})"}))
    found = together(parts)
    highest = worst(means_of(found.columns, each.name))
    if highest is not None:
        column = found.columns[
            each.name, f"{PROBABILITY}@{condition(highest.step, float(highest.rate))}"
        ]
        found.columns[each.name, f"{PROBABILITY}@{WORST}"] = column.copy()
    return found


def _teach(
    model: Any,
    batches: list[dict[str, Any]],
    shares: list[float],
    rate: float,
    steps: int,
    measure: Callable[[int, float], None],
) -> None:
    """Train for some steps, measuring on the way.

    The weights are what they were afterwards, bit for bit.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    try:
        for step in range(1, steps + 1):
            optimizer.zero_grad()
            for batch, share in zip(batches, shares, strict=True):
                torch.autograd.backward(token_mean_nll(model, batch) * share)
            optimizer.step()
            if step in steps_measured(steps):
                measure(step, rate)
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, old in zip(trained, before, strict=True):
                parameter.copy_(old)


def _only(rows: list[int], measured: MeasuredRows, total: int) -> MeasuredRows:
    """Columns over all rows of the set, without a number for those that were taught."""
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
