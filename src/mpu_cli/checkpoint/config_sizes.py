"""Hold the sizes in config.json against the stored tensors, before anything is built from them.

transformers makes modules for every layer, and tables as long as a head is wide, from the numbers
of config.json alone. Each such number is the length of an axis of some tensor, so none may be
larger than the longest axis that is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.errors import BadModelError

MOST_LAYERS = 512
"""The deepest published models have 126 to 315."""
MOST_TENSORS = 200_000
"""In all shards; DeepSeek-V3 has 92,000."""
_FLOOR = 1 << 16
"""Below it a number is harmless."""
_MOST_POSITIONS = 1 << 24
"""The longest published context is 10 million tokens."""
_LAYERS = re.compile(r"n_layers?|num_(\w+_)?layers")
_POSITIONS = re.compile(r"\w*(position|length|seq_len|n_ctx|window|chunk|distance|context)\w*")
_HEADS = re.compile(r"num_(attention_|key_value_|kv_)?heads|n_heads?")
_HEAD_SIZE = re.compile(r"(v_|qk_nope_|qk_rope_)?head_dim")
_NO_SIZE = re.compile(r"\w*(token_id|_index|_idx|seed|rate|theta|freq|scalar|_base)s?")


def check_sizes(path: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> None:
    """Check the kept part of a config.json against the tensors of its model.

    Args:
        path: the config.json, for messages.
        config: its kept keys.
        tensors: by name.

    Raises:
        BadModelError: too many tensors; or a number of layers, size or position that no model with
            these tensors has.
    """
    if len(tensors) > MOST_TENSORS:
        raise BadModelError(
            f"{path.parent}: {len(tensors):,} tensors, more than {MOST_TENSORS:,}, the limit"
        )
    longest = max(
        (max(info.shape, default=1) for info in tensors.values() if info.elements), default=1
    )
    most = max(longest, _FLOOR)
    for key, value in (*_widths(config, ""), *_numbers(config, "")):
        name = key.rpartition(".")[2]
        if _NO_SIZE.fullmatch(name):
            continue
        if _LAYERS.fullmatch(name) and value > len(tensors):
            why = f"but there are only {len(tensors)} tensors"
        elif _LAYERS.fullmatch(name) and value > MOST_LAYERS:
            why = f"more than {MOST_LAYERS}, the limit"
        elif _POSITIONS.fullmatch(name) and value > _MOST_POSITIONS:
            why = f"more than {_MOST_POSITIONS}, the limit"
        elif value > most and not _POSITIONS.fullmatch(name):
            why = f"and no tensor has an axis longer than {longest}"
        else:
            continue
        raise BadModelError(
            f"{path}: {key} is {value}, {why}",
            "correct config.json, or use the one that the model was published with",
        )


def _widths(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    """Heads times their size, in every part: they share one axis of a projection."""
    whole = {key: value for key, value in config.items() if type(value) is int}
    heads = [key for key in whole if _HEADS.fullmatch(key)]
    sizes = [key for key in whole if _HEAD_SIZE.fullmatch(key)]
    for one in heads:
        for other in sizes:
            yield f"{prefix}{one} × {other}", whole[one] * whole[other]
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _widths(value, f"{prefix}{key}.")


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every number in a configuration, with the full name of its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in ("rope_parameters", "rope_scaling"):  # config_values.rope has its ranges
                continue
            yield from _numbers(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value
