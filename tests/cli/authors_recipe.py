"""The authors' recipe as one plain loop, from docs/paper-protocol.md.

Nothing of mpu's client or training is used.

What is taken from mpu is the data side alone: token ids of a row, and which rows come when.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, log_softmax, logsigmoid, softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

from mpu_cli.data.batches import RowSampling, collate, epoch_pairs
from mpu_cli.data.refusals import with_refusals
from mpu_cli.data.rows import read_rows
from mpu_cli.data.templates import encode

IGNORED = -100
ROUNDS_AND_EPOCHS = {
    "GradAscent": (1, 10),
    "GradDiff": (1, 10),
    "UnDIAL": (1, 10),
    "NPO": (2, 5),
    "WGA": (2, 5),
    "SimNPO": (10, 1),
    "DPO": (10, 1),
    "SatImp": (10, 1),
}
"""scripts/mpu_tofu.sh, lines 103-123."""


@dataclass(frozen=True)
class Recipe:
    """What a test changes of the authors' settings, and the data."""

    method: str
    forget: object
    retain: object
    refusals: list[str]
    epochs: int
    batch_size: int = 8
    accumulation: int = 4
    rate: float = 1e-5
    max_grad_norm: float = 1.0


def unlearn(directory, reference_directory, recipe, drawing, seed=0):
    """One copy of one round (pum.py, lines 211-467).

    What training changes, float64, by tensor name.
    """
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    reference = AutoModelForCausalLM.from_pretrained(
        reference_directory, dtype=torch.float32
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    forget, retain = read_rows(recipe.forget), read_rows(recipe.retain)

    def rows(chosen):
        return collate([encode(row, tokenizer, 512) for row in chosen], 0)

    before = {name: tensor.detach().double().clone() for name, tensor in model.state_dict().items()}
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, foreach=False)
    for epoch in range(recipe.epochs):
        pairs = epoch_pairs(seed, epoch, len(forget), len(retain), drawing)
        stream = f"{drawing.stream(seed)}/epoch {drawing.first_epoch + epoch}"
        dealt = with_refusals(forget, recipe.refusals, stream, independent=True)
        waiting = 0
        optimizer.zero_grad()
        for start in range(0, len(pairs), recipe.batch_size):
            batch = pairs[start : start + recipe.batch_size]
            loss = loss_of(
                recipe.method,
                model,
                reference,
                rows([forget[i] for i, _ in batch]),
                rows([retain[j] for _, j in batch]),
                rows([dealt[i].with_answer(dealt[i].alternate) for i, _ in batch]),
            )
            (loss / recipe.accumulation).backward()
            waiting += 1
            if waiting == recipe.accumulation or start + recipe.batch_size >= len(pairs):
                torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                waiting = 0
    return {
        name: tensor.detach().double() - before[name] for name, tensor in model.state_dict().items()
    }


def loss_of(method, model, reference, forget, retain, alternate):
    """src/trainer/utils.py, with gamma = alpha = 1 for every method (pum.py, lines 275-287)."""
    if method == "GradAscent":
        return -model(**forget).loss
    if method == "GradDiff":
        term = -model(**forget).loss
    elif method == "NPO":
        term = -2 / 0.1 * logsigmoid(0.1 * -gain(model, reference, forget)).mean()
    elif method == "DPO":
        term = (
            -2
            / 0.1
            * logsigmoid(
                0.1 * (gain(model, reference, alternate) - gain(model, reference, forget))
            ).mean()
        )
    elif method == "SimNPO":
        counted = (forget["labels"][:, 1:] != IGNORED).sum(-1)
        term = -logsigmoid(4.5 * (sums(model, forget) / counted)).mean() * 2 / 4.5
    elif method == "UnDIAL":
        term = undial(model, reference, forget)
    else:
        nll = each(model, forget)[forget["labels"][:, 1:] != IGNORED]
        p = (-nll).exp().detach()
        term = -((p if method == "WGA" else p**5 * (1 - p)) * nll).mean()
    return term + model(**retain).loss


def each(model, rows):
    """NLL of every position, (B, T - 1)."""
    logits = model(**rows).logits[:, :-1]
    return cross_entropy(
        logits.transpose(-1, -2), rows["labels"][:, 1:], ignore_index=IGNORED, reduction="none"
    )


def sums(model, rows):
    """NLL of every row, (B,)."""
    return each(model, rows).sum(-1)


def gain(model, reference, rows):
    """Log of the model's over the reference's probability of every row, (B,)."""
    with torch.no_grad():
        known = sums(reference, rows)
    return known - sums(model, rows)


def undial(model, reference, rows):
    """Cross entropy to the reference's distribution with the true token's logit lowered by 10."""
    labels = rows["labels"][:, 1:]
    with torch.no_grad():
        teacher = copy.copy(reference(**rows).logits[:, :-1])
    lowered = torch.zeros_like(teacher).scatter_(-1, labels.clamp(min=0).unsqueeze(-1), 10.0)
    entropy = -(softmax(teacher - lowered, -1) * log_softmax(model(**rows).logits[:, :-1], -1)).sum(
        -1
    )
    valid = (labels != IGNORED).float()
    return (entropy * valid).sum() / valid.sum()


def order(name, round_number, epochs):
    """The drawing of copy `name` in a round.

    Every copy and every round its own, retain rows and refusals independent.
    """
    return RowSampling((round_number - 1) * epochs, "", name, independent=True)
