"""What a model says of texts, token by token.

One forward pass per batch, rows sorted by length, only labelled positions kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.rope import regime, switches_beyond
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.logprobs import labelled_predictions

Progress = Callable[[int, int], None]
"""(tokens done, tokens in all), padding not counted."""

_LOGITS = 2**28
"""At most as many logits in a batch of several texts: 1 GB. (16 texts of 2,048 tokens would have 6 GB with 49,152 words.)"""

_POSITIONS = 256
"""Vocabulary-wide log-probabilities are held for this many positions at once: 50 MB with a vocabulary of 49,152."""


@torch.inference_mode()
def score(
    model: Any,
    encoded: Sequence[TokenizedRow],
    places: Sequence[str],
    batch_size: int,
    pad_id: int,
    progress: Progress | None = None,
) -> list[TokenScores]:
    """Scores of every text, in the given order; the model's training mode is put back afterwards.

    Args:
        model: a causal language model of transformers.
        encoded: the texts.
        places: where each comes from, for messages.
        batch_size: texts in a batch; long ones go in smaller batches.
        pad_id: what short texts are filled with.
        progress: told after every batch.

    Raises:
        BadModelError: logits that are not finite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found: list[TokenScores | None] = [None] * len(encoded)
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].input_ids))
    total, done = sum(len(text.input_ids) for text in encoded), 0
    try:
        for places_here in _batches(
            order, encoded, batch_size, _LOGITS // _vocabulary(model), switches_beyond(model.config)
        ):
            texts = [encoded[i] for i in places_here]
            rows = {name: value.to(device) for name, value in collate(texts, pad_id).items()}
            logits, targets = labelled_predictions(model, rows)
            counts = [sum(label >= 0 for label in text.labels[1:]) for text in texts]
            parts = zip(
                *(np.split(column, np.cumsum(counts)[:-1]) for column in _columns(logits, targets)),
                strict=True,
            )
            for i, part in zip(places_here, parts, strict=True):
                found[i] = TokenScores(*part)
                if not (np.isfinite(part[0]).all() and np.isfinite(part[2]).all()):
                    raise BadModelError(
                        f"{places[i]}: the model's logits are not finite",
                        "the weights are broken, or overflow in this precision",
                    )
            done += sum(len(text.input_ids) for text in texts)
            if progress is not None:
                progress(done, total)
    finally:
        model.train(was_training)
    return [scores for scores in found if scores is not None]


def _vocabulary(model: Any) -> int:
    return max(1, getattr(model.config.get_text_config(), "vocab_size", None) or 1)


def _batches(
    order: Sequence[int],
    encoded: Sequence[TokenizedRow],
    most: int,
    positions: int,
    switch: int | None,
) -> Iterator[list[int]]:
    """Texts in this order (short ones first), at most `most` in a batch, padded to at most so many positions, but one at least.

    None has texts of both sides of `switch`.
    """
    batch: list[int] = []
    for i in order:
        length = len(encoded[i].input_ids)
        apart = bool(batch) and regime(len(encoded[batch[-1]].input_ids), 0, switch) != regime(
            length, 0, switch
        )
        if batch and (apart or len(batch) == most or (len(batch) + 1) * length > positions):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _columns(logits: Tensor, targets: Tensor) -> list[NDArray[Any]]:
    """`TokenScores`' arrays for N positions at once, from logits (N, V) and tokens (N,)."""
    columns: list[tuple[Tensor, ...]] = []
    for part, target in zip(
        torch.split(logits, _POSITIONS), torch.split(targets, _POSITIONS), strict=True
    ):
        log_p = part.log_softmax(-1)
        p = log_p.exp()
        # Where p is 0 its logarithm may be −∞, and 0 · −∞ is no number.
        surprise = torch.where(p > 0, log_p, 0.0)
        expected = (p * surprise).sum(-1)
        deviation = (p * (surprise - expected[:, None]).square()).sum(-1).sqrt()
        own = log_p.gather(-1, target[:, None]).squeeze(-1)
        columns.append(
            (own.double(), part.argmax(-1) == target, expected.double(), deviation.double())
        )
    return [torch.cat(column).cpu().numpy() for column in zip(*columns, strict=True)]
