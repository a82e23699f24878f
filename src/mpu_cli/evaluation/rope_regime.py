"""Rotary embeddings with two regimes: one for short texts and one for long texts.

Phi-3's longrope and dynamic NTK scaling use other rotations for every position once a text is
longer than a limit. In transformers the longest row of a batch decides for all its rows, so texts
of different regimes never share a batch; and cached keys of the short regime cannot be used in the
long one.
"""

from __future__ import annotations

from typing import Any

SHORT, CROSSING, LONG = 0, 1, 2
"""A text stays in the short regime, may pass from it to the long one, or is in the long one."""
_SWITCHING = ("longrope", "dynamic")


def switch_length(config: Any) -> int | None:
    """The most tokens of the short regime; None if the model has one regime only."""
    text = config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    lengths = [
        rope.get("original_max_position_embeddings")
        or getattr(text, "original_max_position_embeddings", None)
        or text.max_position_embeddings
        for rope in (parameters, *parameters.values())
        if isinstance(rope, dict) and rope.get("rope_type") in _SWITCHING
    ]
    return min(lengths, default=None)


def regime(length: int, growth: int, switch: int | None) -> int:
    """The regime of a text that may grow.

    Args:
        length: tokens at the start.
        growth: tokens that may follow.
        switch: see `switch_length`.
    """
    if switch is None or length + growth <= switch:
        return SHORT
    return LONG if length > switch else CROSSING
