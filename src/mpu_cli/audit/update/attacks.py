"""Membership attacks on one row: how much the update looks as if it had forgotten this row.

Each takes the copy, the changed copy and the rows, as whoever guesses a document can. No attack
sees which set a row belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mpu_cli.audit.update.encoded_rows import Progress
from mpu_cli.data.batches import collate
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.evaluation.statistics import Array
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import answer_nll, token_mean_nll

_BATCH = 8


@dataclass(frozen=True, slots=True)
class Machine:
    """Where an attack computes, and whom it tells."""

    device: str
    pad_id: int
    progress: Progress


Attack = Callable[[Path, Path, Sequence[TokenizedRow], Machine], Array]
"""(copy, changed copy, rows, machine) → (rows,) scores; a forgotten row should score high."""


def loss_change(
    published: Path, changed: Path, rows: Sequence[TokenizedRow], machine: Machine
) -> Array:
    """The loss on copy + change minus the loss on the copy, per answer token, in nats.

    A forgotten row's loss rises most. One model is in memory at a time.
    """
    before, after = (_losses(path, rows, machine) for path in (published, changed))
    return after - before


def gradient_cosine(
    published: Path, changed: Path, rows: Sequence[TokenizedRow], machine: Machine
) -> Array:
    """The cosine between a row's gradient of the loss on the copy and the update, layers only.

    Unlearning climbs the loss of the rows that it forgets. Embeddings and head are left out, so the
    attack also works where they are frozen. One forward and one backward pass for each row; three
    times the model's float32 size is in memory.
    """
    model = load_model(published).model.to(machine.device)
    after = load_model(changed).model.to(machine.device)
    parameters = dict(model.named_parameters())
    change = {}
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            before = parameters[name]
            if before.requires_grad and not torch.equal(parameter, before):
                change[name] = parameter.sub_(before).detach()
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in change)
    if not change:  # the embeddings alone moved
        return np.zeros(len(rows))
    size = sum(float(part.square().sum()) for part in change.values()) ** 0.5
    scores = []
    for number, row in enumerate(rows, 1):
        batch = collate([row], machine.pad_id)
        loss = token_mean_nll(
            model, {name: value.to(machine.device) for name, value in batch.items()}
        )
        gradients = torch.autograd.grad(
            loss, [parameters[name] for name in change], allow_unused=True
        )
        product, square = 0.0, 0.0
        for part, gradient in zip(change.values(), gradients, strict=True):
            if gradient is not None:  # an expert that the row was not sent to
                product += float((gradient * part).sum())
                square += float(gradient.square().sum())
        scores.append(product / (size * square**0.5) if square else 0.0)
        machine.progress("gradients", number, len(rows))
    return np.array(scores)


def _losses(directory: Path, rows: Sequence[TokenizedRow], machine: Machine) -> Array:
    loaded = load_model(directory).model.to(machine.device)
    measured = answer_nll(loaded, rows, _BATCH, machine.pad_id)
    machine.progress("losses", len(rows), len(rows))
    return np.array([nll / max(tokens, 1) for nll, tokens in measured])
