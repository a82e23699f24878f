"""The closed schema of a family's sections about attention and feed-forwards.

Paths are relative to the layer, without `.weight` or `.bias`. A fact (`FACTS`) that a file does not
state is unknown, and a transform that needs it is not used.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from mpu_cli.registry import did_you_mean

FACTS = (
    *("alibi", "clip", "qk_norm", "qk_norm_kind", "qk_norm_bias", "v_norm"),
    *("activation", "up_branch", "routing"),
)
"""What a transform may ask of a layer (`LayerLayout.facts`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionFacts:
    """What happens to queries, keys and values besides projections and RoPE."""

    alibi: Literal["none", "slopes"] | None = None
    """`slopes`: each head has a slope of its own (ALiBi), so heads differ by their number."""
    clip: str | None = None
    """The config key that, if set, clips each entry of q, k and v to ± its value; or `none`."""
    qk_norm: Literal["none", "per_dim", "full", "per_head"] | None = None
    """Norms of q and k with weights (d) shared by all heads, (H · d) over all heads, or (H, d)."""
    qk_norm_kind: Literal["rms", "layer"] | None = None
    """Root mean square, or LayerNorm, which subtracts the mean."""
    qk_norm_if: str | None = None
    """The config key that must be set for the norms to be there."""
    v_norm: Literal["none", "rms"] | None = None

    def facts(self, config: Mapping[str, Any]) -> dict[str, str | None]:
        """The facts for one configuration; a bias of the norms shows on disk only."""
        norm = self.qk_norm
        if self.qk_norm_if is not None and not config.get(self.qk_norm_if):
            norm = "none"
        clip = self.clip
        if clip not in (None, "none"):
            clip = "set" if config.get(clip) else "none"
        kind = "none" if norm == "none" else self.qk_norm_kind
        return {
            "alibi": self.alibi,
            "clip": clip,
            "qk_norm": norm,
            "qk_norm_kind": kind,
            "qk_norm_bias": "none",
            "v_norm": self.v_norm,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention(AttentionFacts):
    """Projections of H query heads and KV key-value heads, separate or fused."""

    o: str
    rope: Literal["half", "interleaved", "none"]
    q: str | None = None
    k: str | None = None
    v: str | None = None
    qkv: str | None = None
    layout: Literal["concat", "per_head", "per_group"] = "concat"
    rotary: float = 1.0
    no_rope: Mapping[str, Any] = field(default_factory=dict)
    no_rope_every: str | None = None
    q_norm: str | None = None
    k_norm: str | None = None
    sinks: str | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for keys that contradict each other."""
        if (self.qkv is None) == (None in (self.q, self.k, self.v)):
            raise ValueError("either q, k and v, or qkv")
        if (self.q_norm is None) != (self.qk_norm in (None, "none")):
            raise ValueError("q_norm and qk_norm must be given together")


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention(AttentionFacts):
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434)."""

    q: str
    q_a: str
    q_a_norm: str
    q_b: str
    kv_a: str
    kv_a_norm: str
    kv_b: str
    o: str
    rope: Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """One feed-forward, or experts; it belongs to the layers that have its tensors on disk."""

    down: str
    gate: str | None = None
    up: str | None = None
    gate_up: str | None = None
    layout: Literal["concat", "interleaved"] = "concat"
    storage: Literal["out_in", "in_out"] | None = None
    router: tuple[str, ...] = ()
    groups: str | None = None
    activation: Literal["elementwise"] | None = None
    """`elementwise`: a hidden unit depends on its own rows of gate and up alone."""
    up_branch: Literal["linear", "clamped"] | None = None
    """`linear`: down · (f(gate) ⊙ up), so that a sign can move from up to down."""
    routing: Literal["scores"] | None = None
    """`scores`: the router scores each expert by that expert's own rows."""

    @property
    def paths(self) -> dict[str, str]:
        """Gate and up (or both fused) and down, as far as they exist."""
        named = {"gate": self.gate, "up": self.up, "gate_up": self.gate_up, "down": self.down}
        return {role: path for role, path in named.items() if path is not None}

    @property
    def branch(self) -> str | None:
        """The fact `up_branch`; `none` where there is no such branch."""
        return "none" if self.up is None and self.gate_up is None else self.up_branch

    def of_expert(self, expert: int) -> FeedForward:
        """The section with `{e}` replaced in its paths."""
        paths: dict[str, Any] = {role: p.format(e=expert) for role, p in self.paths.items()}
        return replace(self, **paths)


def parse_section(cls: Any, data: Any, where: str) -> Any:
    """A section from a YAML map.

    Raises:
        ValueError: a key is unknown (the nearest is named) or missing, or a value is none of its
            choices.
    """
    items = {item.name: item for item in fields(cls)}
    required = [
        name for name, item in items.items() if item.default is item.default_factory is MISSING
    ]
    check_keys(data, where, items, required)
    for key, value in data.items():
        choices = _choices(cls, key)
        if choices and value not in choices:
            raise ValueError(f"{where}: {key} must be {', '.join(choices[:-1])} or {choices[-1]}")
    try:
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in data.items()})
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_keys(
    data: Any, where: str, known: Collection[str], required: Collection[str] = ()
) -> None:
    """Raise ValueError if data is not a map with these keys."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected a map")
    for key in data:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ValueError(f"{where}: unknown key {key!r}" + (f", {hint}" if hint else ""))
    if missing := sorted(set(required) - set(data)):
        raise ValueError(f"{where}: key {missing[0]!r} is missing")


@cache
def _choices(cls: Any, key: str) -> tuple[str, ...]:
    """The words that a `Literal` allows, also one in a union with None."""
    hint = get_type_hints(cls)[key]
    literal = next((part for part in (hint, *get_args(hint)) if get_origin(part) is Literal), None)
    return get_args(literal) if literal else ()
