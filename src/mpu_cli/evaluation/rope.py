"""Rotary embeddings that turn everything otherwise once a text is long.

Phi-3's longrope, and dynamic NTK scaling.

The longest row of a batch decides for all of them (transformers), so rows of both sides never share
a batch; and keys that were turned for a short text are of no use to a long one.
"""

from __future__ import annotations

from typing import Any

_SWITCHING = ("longrope", "dynamic")


def switches_beyond(config: Any) -> int | None:
    """The number of tokens up to which positions are turned in the first way, or None where there is only one."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    kinds = [
        one
        for one in (parameters, *parameters.values())
        if isinstance(one, dict) and one.get("rope_type") in _SWITCHING
    ]
    lengths = [
        one.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        or text.max_position_embeddings
        for one in kinds
    ]
    return min(lengths, default=None)


STAYS_SHORT, CROSSES, IS_LONG = 0, 1, 2


def regime(length: int, growth: int, switch: int | None) -> int:
    """On which regime of the switch a text is that may grow; texts of different sides share no batch.

    Args:
        length: tokens to begin with.
        growth: tokens that may follow.
        switch: see `switches_beyond`.
    """
    if switch is None or length + growth <= switch:
        return STAYS_SHORT
    return IS_LONG if length > switch else CROSSES
