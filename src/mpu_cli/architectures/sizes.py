"""The sizes that a layout needs from config.json, by the keys that a family has for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpu_cli.architectures.family import Family
from mpu_cli.errors import BadModelError

_KEYS = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
_SHARE_KEYS = ("partial_rotary_factor", "rotary_pct")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts and sizes of a model's layers.

    `rotary` is how many coordinates of a head RoPE turns.
    """

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rotary: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], family: Family, where: object) -> Sizes:
        """Read and check the sizes.

        Raises:
            BadModelError: a size is absent, not a positive integer, or does not fit another; the
                key is named.
        """
        read = _SizeReader(config, family, where)
        heads = read.size("heads")
        kv_heads = read.size("kv_heads", default=heads)
        if heads % kv_heads:
            raise BadModelError(
                f"{where}: {heads} attention heads do not divide into {kv_heads} key-value heads"
            )
        if family.latent_attention is not None:
            head_dim = 0
        else:
            given = config.get(str(family.sizes.get("head_dim", _KEYS["head_dim"])))
            head_dim = read.size("head_dim") if given is not None else read.size("hidden") // heads
        return cls(read.size("layers"), heads, kv_heads, head_dim, read.rotary(head_dim))


def width_and_depth(config: Mapping[str, Any], family: Family, where: object) -> tuple[int, int]:
    """Hidden units and layers.

    Raises:
        BadModelError: one is absent, or not a positive integer; the key is named.
    """
    read = _SizeReader(config, family, where)
    return read.size("hidden"), read.size("layers")


def layers_key(family: Family) -> str:
    """The key of config.json that says how many layers there are."""
    return str(family.sizes.get("layers", _KEYS["layers"]))


class _SizeReader:
    def __init__(self, config: Mapping[str, Any], family: Family, where: object) -> None:
        self.config, self.family, self.where = config, family, where

    def size(self, name: str, default: int | None = None) -> int:
        """A size by its key in this family; a number in the data file is the size itself."""
        key = self.family.sizes.get(name, _KEYS[name])
        if isinstance(key, int):
            return key
        return positive(self.config, key, self.where, default)

    def rotary(self, head_dim: int) -> int:
        attention = self.family.attention
        if attention is None or attention.rope == "none":
            return 0
        share: Any = attention.rotary
        parameters = self.config.get("rope_parameters")
        for source in (self.config, parameters if isinstance(parameters, Mapping) else {}):
            for key in _SHARE_KEYS:
                share = source[key] if source.get(key) is not None else share
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 1:
            raise BadModelError(
                f"{self.where}: the rotary share is {share!r}, expected a number in (0, 1]"
            )
        return int(head_dim * share)


@dataclass(frozen=True, slots=True)
class LatentSizes:
    """Coordinates in multi-head latent attention.

    Each head has `nope` without RoPE, `rope` with it, and `value`; the latent vector of keys and
    values has `latent`.
    """

    nope: int
    rope: int
    value: int
    latent: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: object) -> LatentSizes:
        """Read and check the sizes; raises BadModelError naming the key."""
        keys = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank")
        return cls(*(positive(config, key, where) for key in keys))


def positive(config: Mapping[str, Any], key: str, where: object, default: int | None = None) -> int:
    """A positive integer of config.json, or BadModelError naming the key."""
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise BadModelError(f"{where}: {key} is {value!r}, expected a positive integer")
    return value
