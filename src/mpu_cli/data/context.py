"""How many tokens a model can see, and how many of a row are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpu_cli.errors import UsageError

USUAL = 512
"""Tokens of a row that are kept by default, if the model's context has as many."""
_STRETCHED = ("linear", "dynamic", "yarn")
"""RoPE scalings whose factor extends the context; configs of the others state the whole length."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most tokens of a row that are kept, and the reason for this limit, for messages."""

    tokens: int
    because: str = "--max-length"


def context_length(config: Mapping[str, Any]) -> int | None:
    """The context of a model in tokens, by its config.json; None if the config has no bound.

    Learned positions (GPT-2, OPT) end with their table; two rows of OPT's table belong to no token.
    A sliding window is not a bound, and neither is the original length of RoPE scaling.
    """
    text = config.get("text_config")
    text = text if isinstance(text, Mapping) else config
    positions = next(
        (
            text[key]
            for key in ("max_position_embeddings", "n_positions")
            if _is_length(text.get(key))
        ),
        None,
    )
    if positions is None:
        return None
    scaling = text.get("rope_parameters") or text.get("rope_scaling")
    parts = [scaling, *scaling.values()] if isinstance(scaling, Mapping) else []
    stretched = [
        int(part["factor"] * (part.get("original_max_position_embeddings") or positions))
        for part in parts
        if isinstance(part, Mapping)
        and part.get("rope_type", part.get("type")) in _STRETCHED
        and isinstance(part.get("factor"), int | float)
    ]
    return max(positions, *stretched) if stretched else int(positions)


def row_limit(asked: int | None, context: int | None, *, beside: int = 0) -> Limit:
    """How much of a row is kept: --max-length, or 512 tokens, or a shorter context.

    Args:
        asked: --max-length, or None.
        context: see `context_length`.
        beside: tokens in the context that are not the row's.

    Raises:
        UsageError: --max-length exceeds the model's context.
    """
    room = None if context is None else context - beside
    if asked is None:
        return Limit(USUAL) if room is None or room >= USUAL else Limit(room, "the model's context")
    if room is not None and asked > room:
        raise UsageError(
            f"--max-length {asked}: the model's context has {context} tokens",
            f"give at most {room}",
        )
    return Limit(asked)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
