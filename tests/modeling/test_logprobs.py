"""Negative log-likelihoods against a plain numpy computation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.modeling.logprobs import (
    answer_nll,
    batch_nll,
    labelled_predictions,
    token_counts,
    token_mean_nll,
)
from tiny_models import make_model


def row(seed: int, length: int, prompt: int) -> TokenizedRow:
    """Random tokens, the first `prompt` of them unlabelled."""
    ids = tuple(
        torch.randint(5, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    )
    return TokenizedRow(ids, (IGNORED,) * prompt + ids[prompt:])


ROWS = [row(1, 9, 4), row(2, 5, 1), row(3, 12, 11), row(4, 7, 0)]


def plain_nll(model: Any, encoded: TokenizedRow) -> list[float]:
    """ℓ_t of one row alone, from its logits, in numpy and float64."""
    with torch.no_grad():
        logits = model(torch.tensor([encoded.input_ids])).logits[0].double().numpy()
    losses = []
    for position in range(1, len(encoded.labels)):
        if encoded.labels[position] != IGNORED:
            row_logits = logits[position - 1]
            peak = row_logits.max()
            losses.append(
                float(
                    peak
                    + np.log(np.exp(row_logits - peak).sum())
                    - row_logits[encoded.labels[position]]
                )
            )
    return losses


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_answer_nll_is_the_sum_over_each_row_alone(family: str) -> None:
    """Padding, batching and sorting change nothing, and results come in the given order."""
    model = make_model(family)
    found = answer_nll(model, ROWS, batch_size=3, pad_id=0)
    for (nll, tokens), encoded in zip(found, ROWS, strict=True):
        expected = plain_nll(model, encoded)
        assert tokens == len(expected)
        assert nll == pytest.approx(sum(expected), rel=1e-6)
        assert 0 < math.exp(-nll / tokens) < 1


def test_answer_nll_restores_the_mode_and_uses_no_dropout() -> None:
    """A model in training mode is measured without dropout, and is in training mode afterwards."""
    model = make_model(attention_dropout=0.5).train()
    assert answer_nll(model, ROWS, 2, 0) == answer_nll(model, ROWS, 2, 0)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_predictions_are_shifted_and_masked() -> None:
    """Logits at t are those of the label at t + 1, of labelled tokens only."""
    model, batch = make_model(), collate(ROWS, pad_id=0)
    logits, targets = labelled_predictions(model, batch)
    assert targets.tolist() == [
        label for row in ROWS for label in row.labels[1:] if label != IGNORED
    ]
    every = [value for encoded in ROWS for value in plain_nll(model, encoded)]
    assert functional.cross_entropy(logits, targets, reduction="none").tolist() == pytest.approx(
        every, rel=1e-5
    )
    assert functional.cross_entropy(logits, targets.roll(1)).item() != pytest.approx(
        np.mean(every), rel=1e-3
    )
    assert token_counts(batch["labels"]).tolist() == [
        len(plain_nll(model, encoded)) for encoded in ROWS
    ]


def test_half_precision_logits_are_raised() -> None:
    """bfloat16 logits are summed in float32; float64 ones stay float64."""
    model, batch = make_model(), collate(ROWS, pad_id=0)
    assert batch_nll(model.bfloat16(), batch)[0].dtype == torch.float32
    assert batch_nll(model.double(), batch)[0].dtype == torch.float64


def test_a_row_without_labels_counts_nothing() -> None:
    """Its sum is 0 with a gradient of 0; the other rows keep their sums."""
    model = make_model()
    empty = TokenizedRow(ROWS[0].input_ids, (IGNORED,) * len(ROWS[0].input_ids))
    nll, tokens = batch_nll(model, collate([empty, ROWS[1]], pad_id=0))
    assert (nll[0].item(), tokens.tolist()) == (0, [0, len(plain_nll(model, ROWS[1]))])
    assert nll[1].item() == pytest.approx(sum(plain_nll(model, ROWS[1])), rel=1e-6)
    alone, _ = batch_nll(model, collate([empty], pad_id=0))
    alone.sum().backward()
    assert any(parameter.grad is not None for parameter in model.parameters())
    assert all(
        not parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None
    )


def test_token_mean_is_over_the_batch() -> None:
    """The mean is over all labelled tokens of the batch, not the mean of the rows' means."""
    model = make_model()
    batch = collate(ROWS, pad_id=0)
    nll, tokens = batch_nll(model, batch)
    every = [value for encoded in ROWS for value in plain_nll(model, encoded)]
    assert token_mean_nll(model, batch).item() == pytest.approx(np.mean(every), rel=1e-6)
    assert (nll / tokens).mean().item() != pytest.approx(np.mean(every), rel=1e-3)
