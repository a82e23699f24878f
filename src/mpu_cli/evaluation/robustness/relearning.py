"""Relearning: how few steps on a few forget rows bring the others back (Lynch et al., arXiv 2402.16835; Hu et al., arXiv 2406.13356).

AdamW with a constant rate on n of the forget rows, embeddings frozen, a batch of all n rows a step; the answer probability
is measured on the *other* forget rows, at steps 0, 1, 2, 4, 8 …: what comes back there was hidden, not gone.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch

from mpu_cli.data.batches import collate, pad_id
from mpu_cli.data.order import shuffled
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.questions import FORGET, QuestionSet
from mpu_cli.evaluation.record import Record
from mpu_cli.evaluation.robustness.check import Check, together, under
from mpu_cli.evaluation.subject import Measured, Subject
from mpu_cli.training.logprobs import token_counts, token_mean_nll


def run(subject: Subject, metrics: Collection[RowMetric]) -> Measured:
    """Answer probability of the rows that are not relearned, by step."""
    return together([_relearn(subject, each) for each in subject.sets if each.role == FORGET])


def steps_measured(last: int) -> list[int]:
    """0, 1, 2, 4 … and the last."""
    return sorted({0, last, *(2**power for power in range(last.bit_length()) if 2**power <= last)})


def _relearn(subject: Subject, each: QuestionSet) -> Measured:
    settings = subject.settings
    count = min(settings.relearn_rows, len(each.questions) // 2)
    if not count:
        return Measured(reasons={(each.name, "answer_probability@relearned"): "fewer than two rows"})
    order = shuffled(len(each.questions), f"relearn/{settings.seed}")
    taught, others = sorted(order[:count]), sorted(order[count:])
    rest = replace(each, questions=tuple(each.questions[i] for i in others))
    lesson = replace(each, questions=tuple(each.questions[i] for i in taught))
    encoded = [text.encoded for text in subject.encoder.texts([lesson], ["answer"])]
    model = subject.model
    device, filler = next(model.parameters()).device, pad_id(subject.tokenizer, embedding_rows(model))
    batches = [
        {name: value.to(device) for name, value in collate(encoded[at : at + settings.batch_size], filler).items()}
        for at in range(0, len(encoded), settings.batch_size)
    ]
    counts = [int(token_counts(batch["labels"]).sum()) for batch in batches]
    shares = [count / sum(counts) for count in counts]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.AdamW(trained, lr=settings.relearn_rate, weight_decay=0.0)
    parts, step = [], 0
    try:
        for target in steps_measured(settings.relearn_steps):
            while step < target:
                optimizer.zero_grad()
                for batch, share in zip(batches, shares, strict=True):
                    torch.autograd.backward(token_mean_nll(model, batch) * share)
                optimizer.step()
                step += 1
            measured = subject.measure([row_metrics()["answer_probability"]], [rest])
            parts.append(under(f"relearned-{target}", _only(others, measured, len(each.questions))))
    finally:
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter, old in zip(trained, before, strict=True):
                parameter.copy_(old)
    return together(parts)


def _only(rows: list[int], measured: Measured, total: int) -> Measured:
    """Columns over all rows of the set, without a number for those that were taught."""
    for key, values in measured.columns.items():
        measured.columns[key] = np.full(total, np.nan)
        measured.columns[key][rows] = values
    return measured


RECOVERED = 0.9
"""Of the answer probability before unlearning."""


def with_steps(record: Record, before: Record) -> Record:
    """The record with `relearning_steps`: the first step measured at which the rows that were not taught are back.

    Back is 90 % of the mean answer probability that the same rows had before unlearning.
    """
    values = {owner: dict(metrics) for owner, metrics in record.values.items()}
    left_out = dict(record.left_out)
    for name in (name for name, info in record.sets.items() if info.role == FORGET):
        curve = {int(metric.rpartition("-")[2]): values for (owner, metric), values in record.columns.items()
                 if owner == name and metric.startswith("answer_probability@relearned-")}  # fmt: skip
        old = before.columns.get((name, "answer_probability"))
        if not curve or old is None:
            left_out[name, "relearning_steps"] = "--before has no answer_probability of these rows" if curve else "nothing was relearned"
            continue
        others = ~np.isnan(next(iter(curve.values())))
        reached = [step for step, column in sorted(curve.items()) if column[others].mean() >= RECOVERED * old[others].mean()]
        if reached:
            values[name]["relearning_steps"] = {"value": float(reached[0])}
        else:
            left_out[name, "relearning_steps"] = f"{RECOVERED:.0%} of --before is not reached in {max(curve)} steps"
    return replace(record, values=values, left_out=left_out)


CHECK = Check(
    "relearning",
    "answer probability of the other forget rows after k steps on n of them (--relearn-rows, --relearn-steps, --relearn-rate)",
    "Lynch et al., arXiv 2402.16835; Hu et al., arXiv 2406.13356",
    run,
)
