"""The answers' likelihoods that metrics are made of: one model, loaded once, over several sets of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpu_cli.data.batches import pad_id
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import encode
from mpu_cli.training.load import load_model, load_tokenizer
from mpu_cli.training.logprobs import answer_nll

MAX_LENGTH, BATCH = 512, 8


def answer_likelihoods(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int = MAX_LENGTH, batch_size: int = BATCH
) -> list[list[tuple[float, int]]]:
    """Per set and row: the NLL sum of the answer's tokens, nats, and how many they are."""
    tokenizer = load_tokenizer(model)
    encoded = [[encode(row, tokenizer, max_length) for row in rows] for rows in sets]
    loaded = load_model(model).model
    return [answer_nll(loaded, rows, batch_size, pad_id(tokenizer)) for rows in encoded]
