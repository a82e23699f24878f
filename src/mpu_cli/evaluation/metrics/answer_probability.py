"""Answer probability: exp(−mean NLL of the answer's tokens), averaged over rows (TOFU, arXiv 2401.06121, section 2.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path

from mpu_cli.data.batches import pad_id
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import encode
from mpu_cli.training.load import load_model, load_tokenizer
from mpu_cli.training.logprobs import answer_nll


def answer_probabilities(model: Path, sets: Sequence[Sequence[Row]], max_length: int = 512, batch_size: int = 16) -> list[float]:
    """Mean answer probability of a model on each set of rows, between 0 and 1; the model is loaded once."""
    tokenizer = load_tokenizer(model)
    loaded = load_model(model).model
    means = []
    for rows in sets:
        encoded = [encode(row, tokenizer, max_length) for row in rows]
        nll = answer_nll(loaded, encoded, batch_size, pad_id(tokenizer))
        means.append(sum(exp(-total / tokens) for total, tokens in nll) / len(nll))
    return means
