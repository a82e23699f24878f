"""Tokens of the tokenizer against rows of the model's embedding.

A token that was added needs a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpu_cli.errors import BadDataError


def embedding_rows(model: Any) -> int:
    """How many tokens a loaded model knows."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def require_known(ids: Sequence[int], where: str, tokenizer: Any, rows: int | None) -> None:
    """Refuse a text with a token that the embedding has no row for.

    Args:
        ids: the text's tokens.
        where: the row's place, for the message.
        tokenizer: what made the tokens.
        rows: of the embedding; None = not known, and nothing is refused.

    Raises:
        BadDataError: the first such token is named.
    """
    if rows is None:
        return
    strange = next((token for token in ids if not 0 <= token < rows), None)
    if strange is not None:
        word = tokenizer.convert_ids_to_tokens(strange)
        raise BadDataError(
            f"{where}: the token {word!r} (id {strange}) is outside the model's embedding of {rows}"
            " rows",
            "it was added to the tokenizer, or the tokenizer belongs to another model:"
            " model.resize_token_embeddings in transformers adds rows, or take the tokenizer that"
            " the model was trained with",
        )
