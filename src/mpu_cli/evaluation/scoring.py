"""Score texts with a model, token by token: one forward pass for each batch of similar lengths."""

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
from mpu_cli.evaluation.rope_regime import regime, switch_length
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.logprobs import labelled_predictions

_LOGITS = 2**28
"""The most logits in a batch of several texts: 1 GB.

16 texts of 2,048 tokens would have 6 GB with a vocabulary of 49,152.
"""
_POSITIONS = 256
"""Positions whose log-probabilities are in memory at once: 50 MB with that vocabulary."""


@torch.inference_mode()
def score(
    model: Any,
    encoded: Sequence[TokenizedRow],
    places: Sequence[str],
    batch_size: int,
    pad_id: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[TokenScores]:
    """Score every text, in the given order; the model's training mode is restored afterwards.

    Args:
        model: a causal language model of transformers.
        encoded: the texts.
        places: the place of each text, for messages.
        batch_size: texts in a batch; batches of long texts are smaller.
        pad_id: the token to pad with.
        progress: called after every batch with (tokens done, tokens in total), without padding.

    Raises:
        BadModelError: logits that are not finite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    results: dict[int, TokenScores] = {}
    lengths = [len(text.input_ids) for text in encoded]
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", None) or 1
    done = 0
    try:
        for batch in _batches(
            lengths, batch_size, _LOGITS // max(1, vocabulary), switch_length(model.config)
        ):
            texts = [encoded[i] for i in batch]
            rows = {name: value.to(device) for name, value in collate(texts, pad_id).items()}
            logits, targets = labelled_predictions(model, rows)
            ends = np.cumsum([sum(label >= 0 for label in text.labels[1:]) for text in texts])
            columns = (np.split(column, ends[:-1]) for column in _columns(logits, targets))
            for i, part in zip(batch, zip(*columns, strict=True), strict=True):
                results[i] = TokenScores(*part)
                if not (np.isfinite(part[0]).all() and np.isfinite(part[2]).all()):
                    raise BadModelError(
                        f"{places[i]}: the model's logits are not finite",
                        "the weights are broken, or overflow in this precision",
                    )
            done += sum(lengths[i] for i in batch)
            if progress is not None:
                progress(done, sum(lengths))
    finally:
        model.train(was_training)
    return [results[i] for i in range(len(encoded))]


def _batches(
    lengths: Sequence[int], batch_size: int, positions: int, switch: int | None
) -> Iterator[list[int]]:
    """Indices of texts in batches, short texts first; a batch has texts of one RoPE regime only.

    A batch of several texts is padded to at most `positions` positions.
    """
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (
            len(batch) == batch_size
            or (len(batch) + 1) * lengths[i] > positions
            or regime(lengths[batch[-1]], 0, switch) != regime(lengths[i], 0, switch)
        ):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _columns(logits: Tensor, targets: Tensor) -> list[NDArray[Any]]:
    """The arrays of `TokenScores` for N positions, from logits (N, V) and tokens (N,)."""
    columns: list[tuple[Tensor, ...]] = []
    for part, target in zip(
        torch.split(logits, _POSITIONS), torch.split(targets, _POSITIONS), strict=True
    ):
        log_p = part.log_softmax(-1)
        p = log_p.exp()
        # Where p is 0 its logarithm may be −∞, and 0 · −∞ is NaN.
        finite_log_p = torch.where(p > 0, log_p, 0.0)
        expected = (p * finite_log_p).sum(-1)
        deviation = (p * (finite_log_p - expected[:, None]).square()).sum(-1).sqrt()
        own = log_p.gather(-1, target[:, None]).squeeze(-1)
        columns.append(
            (own.double(), part.argmax(-1) == target, expected.double(), deviation.double())
        )
    return [torch.cat(column).cpu().numpy() for column in zip(*columns, strict=True)]
