"""Refuse tokens that the model's embedding has no row for, such as tokens added later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpu_cli.errors import BadDataError


def embedding_rows(model: Any) -> int:
    """The number of tokens that a loaded model knows."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def require_known(ids: Sequence[int], where: str, tokenizer: Any, rows: int | None) -> None:
    """Refuse a text that has a token without a row in the embedding.

    Args:
        ids: the text's tokens.
        where: the row's place, for the message.
        tokenizer: the tokenizer that made the tokens.
        rows: rows of the embedding; None = unknown, and nothing is refused.

    Raises:
        BadDataError: there is such a token; the message names the first.
    """
    if rows is None:
        return
    strange = next((token for token in ids if not 0 <= token < rows), None)
    if strange is not None:
        word = tokenizer.convert_ids_to_tokens(strange)
        raise BadDataError(
            f"{where}: the token {word!r} (id {strange}) is outside the model's embedding of {rows}"
            " rows",
            "the token was added to the tokenizer, or the tokenizer belongs to another model: add"
            " rows with model.resize_token_embeddings of transformers, or use the tokenizer that"
            " the model was trained with",
        )
