"""How many tokens a model can see, and how many of a row are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpu_cli.errors import UsageError

USUAL = 512
"""Tokens of a row that are kept where the user says nothing and the model's context is longer."""
_STRETCHED = ("linear", "dynamic", "yarn")
"""RoPE scalings whose factor makes the context longer than the number of positions; the others' configs name the whole."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Tokens of a row that are kept, and what sets this limit, for messages."""

    tokens: int
    because: str = "--max-length"


def context_length(config: Mapping[str, Any]) -> int | None:
    """Tokens that a model can see at once, by its config.json (defaults filled in, or not).

    None where it names no bound.

    Positions that are looked up in a table (GPT-2, OPT) end there. OPT's table has two rows more,
    which no token gets. A sliding window is no bound: the model goes on behind it. RoPE scaling's
    original length is none either.
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
    """How much of a row is kept.

    What is asked for, else 512 tokens, else the model's context where that is shorter.

    Args:
        asked: --max-length, or None.
        context: see `context_length`.
        beside: tokens that come on top of a row's.

    Raises:
        UsageError: more is asked for than the model can see.
    """
    room = None if context is None else context - beside
    if asked is None:
        return Limit(USUAL) if room is None or room >= USUAL else Limit(room, "the model's context")
    if room is not None and asked > room:
        raise UsageError(
            f"--max-length {asked}: the model sees {context} tokens", f"give at most {room}"
        )
    return Limit(asked)


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
