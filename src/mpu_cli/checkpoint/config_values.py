"""Check the values of config.json: the type of a key, and a range that follows from its name."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from mpu_cli.checkpoint.origin import origin_of, texts_in

_LARGEST = 1 << 31
_FUNCTION = re.compile(r"\w*(hidden_act|activation|activation_function|act_fn)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")


class BadValueError(ValueError):
    """A value is invalid; the text says what is expected."""


def check(key: str, kind: str, value: Any) -> None:
    """Check one value. null passes, because for transformers it may mean a default.

    Raises:
        BadValueError: the value has another type, is out of range, or says where it came from.
    """
    if value is None:
        return
    if not any(_is(one, value) for one in kind.split("|")):
        raise BadValueError(" or ".join(_WORDS[one] for one in kind.split("|")))
    if (found := next(filter(None, map(origin_of, texts_in(value))), None)) is not None:
        raise BadValueError(f"a setting of the model, not {found}")
    if isinstance(value, str) and _FUNCTION.fullmatch(key) and not _NAME.fullmatch(value):
        raise BadValueError("the name of a function, such as silu")
    expected, holds = next(
        ((words, test) for pattern, words, test in _RANGES if pattern.fullmatch(key)), ("", None)
    )
    # If the class declares no type, the name implies a number.
    if (
        holds is not None
        and (_is_number(value) or kind == "any")
        and not (_is_number(value) and holds(value))
    ):
        raise BadValueError(expected)


def rope(value: Any, depth: int = 0) -> tuple[dict[str, Any], list[str]]:
    """Return the known keys of `rope_parameters` or `rope_scaling`, and the names of the others.

    Raises:
        BadValueError: not a map, an unknown type, or a factor out of range.
    """
    if not isinstance(value, dict):
        raise BadValueError("a map")
    known: dict[str, Any] = {}
    left_out: list[str] = []
    for key, inner in value.items():
        if key in _ROPE:
            expected, holds = _ROPE[key]
            if inner is not None and not holds(inner):
                raise BadValueError(f"{expected} as {key}")
            known[key] = inner
        elif (
            depth == 0
            and (inner is None or isinstance(inner, dict))
            and re.fullmatch(r"\w+_attention|main|compress", key)
        ):
            known[key] = None if inner is None else rope(inner, 1)[0]  # one map per layer type
        else:
            left_out.append(key)
    low, high = known.get("low_freq_factor"), known.get("high_freq_factor")
    if low is not None and low == high:
        raise BadValueError("different low_freq_factor and high_freq_factor")
    return known, left_out


def _is(kind: str, value: Any) -> bool:
    if kind == "int":
        return type(value) is int and abs(value) < _LARGEST
    if kind == "number":
        return _is_number(value)
    if kind == "text":
        return isinstance(value, str) and len(value) <= 100 and value.isprintable()
    if kind == "list":
        return (
            isinstance(value, list)
            and len(value) < 100_000
            and all(_is_plain(item) for item in value)
        )
    return {"bool": isinstance(value, bool), "map": isinstance(value, dict), "any": True}[kind]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | str | int) or _is_number(value)


def _within(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: _is_number(value) and least <= value <= most


def _all_within(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and 0 < len(value) < _LARGEST
        and all(map(_within(least, most), value))
    )


_WORDS = {
    "int": "an integer",
    "number": "a number",
    "bool": "true or false",
    "text": "a short text",
    "list": "a list",
    "map": "a map",
    "any": "a value",
}
_RANGES: tuple[tuple[re.Pattern[str], str, Callable[[Any], bool]], ...] = (
    (
        re.compile(
            r"vocab_size|hidden_size|(original_)?max_position_embeddings|kv_lora_rank"
            r"|num_(attention_heads|hidden_layers|key_value_heads|kv_heads|layers)"
            r"|(qk_rope_|v_)?head_dim|n_(embd|embed|heads?|layers?|positions|ctx)"
        ),
        "a positive integer",
        lambda value: type(value) is int and 0 < value < _LARGEST,
    ),
    (
        re.compile(r"sliding_window|\w*_size|num_\w+|n_\w+|\w*_dim|\w*_rank"),
        "a number of 0 or more",
        _within(0, _LARGEST),
    ),
    (
        re.compile(r"\w*dropout\w*|\w*pdrop|\w*layerdrop|\w*jitter_noise"),
        "a number from 0 up to, but not including, 1",
        lambda value: 0 <= value < 1,
    ),
    (re.compile(r"\w*_(eps|epsilon)"), "a number from 0 to 1", _within(0, 1)),
    (re.compile(r"initializer_range"), "a number of 0 or more", _within(0, 1e6)),
    (
        re.compile(r"rope_theta|rope_local_base_freq|rotary_emb_base"),
        "a number from 1 to 1e12",
        _within(1, 1e12),
    ),
    (
        re.compile(r"partial_rotary_factor|rotary_pct"),
        "a number above 0 and at most 1",
        lambda value: 0 < value <= 1,
    ),
)
_POSITIVE = ("a number from 1e-6 to 1e12", _within(1e-6, 1e12))
_NUMBER = ("a number of 0 or more", _within(0, 1e12))
_TYPES = "default, linear, dynamic, yarn, longrope, llama3, proportional, su, mrope, axial"
_TYPE = (
    f"one of {_TYPES}",
    lambda value: isinstance(value, str) and value in _TYPES.split(", "),
)
_FACTORS = ("a list of numbers from 1e-6 to 1e12", _all_within(1e-6, 1e12))
_SWITCH = ("true or false", lambda value: isinstance(value, bool))
_ROPE: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "rope_type": _TYPE,
    "type": _TYPE,
    "rope_theta": ("a number from 1 to 1e12", _within(1, 1e12)),
    "factor": _POSITIVE,
    "attention_factor": _POSITIVE,
    "beta_fast": _POSITIVE,
    "beta_slow": _POSITIVE,
    "mscale": _NUMBER,
    "mscale_all_dim": _NUMBER,
    "llama_4_scaling_beta": _NUMBER,
    "truncate": _SWITCH,
    "original_max_position_embeddings": (
        "a positive integer",
        lambda value: type(value) is int and 0 < value < _LARGEST,
    ),
    "low_freq_factor": _POSITIVE,
    "high_freq_factor": _POSITIVE,
    "short_factor": _FACTORS,
    "long_factor": _FACTORS,
    "short_mscale": _POSITIVE,
    "long_mscale": _POSITIVE,
    "partial_rotary_factor": (
        "a number above 0 and at most 1",
        lambda value: _is_number(value) and 0 < value <= 1,
    ),
    "alpha": _POSITIVE,
    "mrope_section": ("a list of numbers", _all_within(0, _LARGEST)),
    "mrope_interleaved": _SWITCH,
}
