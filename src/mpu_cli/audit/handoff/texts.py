"""Texts to run models on: given rows, or what a copy writes, which needs no data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpu_cli.data.context import context_length, row_limit
from mpu_cli.data.templates import TokenizedRow, encode
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.answer_scores import read_probe
from mpu_cli.evaluation.decoding import continued, refuse_without_cache
from mpu_cli.evaluation.rope_regime import switch_length
from mpu_cli.evaluation.sampling import RandomChoice
from mpu_cli.modeling.tokenizer import load_config, load_tokenizer

_ROWS, _TOKENS = 32, 64
"""How many texts a copy writes, and how long they are."""


def given_texts(file: Path, directory: Path) -> list[TokenizedRow]:
    """The rows of a file as a model's tokenizer encodes them, cut to its context or 512 tokens.

    Raises:
        BadDataError: the rows cannot be used.
    """
    rows = read_probe(file)
    context = context_length(load_config(directory).get_text_config().to_dict())
    longest = row_limit(None, context).tokens
    tokenizer = load_tokenizer(directory)
    return [encode(row, tokenizer, longest) for row in rows]


def written_texts(model: Any, seed: int) -> tuple[list[TokenizedRow], bool]:
    """What a model writes at temperature 1 after its first token; every token is labelled.

    Returns:
        The texts, and whether the model wrote them: one that mpu cannot generate with gives random
        tokens instead.
    """
    import torch

    size = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    begin = model.config.get_text_config().bos_token_id
    starts = (
        [begin] * _ROWS
        if isinstance(begin, int) and 0 <= begin < size
        else torch.randint(size, (_ROWS,), generator=generator).tolist()
    )
    choice = RandomChoice([seed * _ROWS + row for row in range(_ROWS)], 1.0)
    try:
        refuse_without_cache(model)
        texts = continued(
            model,
            [[start] for start in starts],
            _TOKENS - 1,
            frozenset(),
            lambda _: False,
            0,
            choice,
            switch_length(model.config),
        )
    except BadModelError:
        texts = []
    written = bool(texts)
    texts = texts or torch.randint(size, (_ROWS, _TOKENS - 1), generator=generator).tolist()
    rows = [(start, *text) for start, text in zip(starts, texts, strict=True)]
    return [TokenizedRow(row, row) for row in rows], written
