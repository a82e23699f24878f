"""A model as transforms and noise see it: slots (tensor, axis, index) by role.

Shape letters: H query heads in KV groups of G = H / KV, d head size, D hidden, F feed-forward, E
experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Index: TypeAlias = "npt.NDArray[np.int64]"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one axis of one tensor stores a role.

    `index[...]` are positions along `axis`, which is `size` long. The shape of `index` says what
    the positions mean: see the roles of `LayerLayout`. Several slots may lie in one tensor (fused
    q, k and v).
    """

    tensor: str
    axis: int
    size: int
    index: Index


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts that may change places, all with rows or tensors of the same shapes."""

    slots: tuple[Slot, ...]
    """Router rows and stacked tensors, index (groups, E / groups)."""
    tensors: tuple[tuple[str, ...], ...]
    """The tensors of each expert, in the same order; empty where the experts are stacked."""
    groups: int
    count: int


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """One decoder layer: its slots by role, and its tensors on disk.

    Roles, with the shape of their index:

    * `query_heads` (KV, G, ·) and `key_value_heads` (KV, ·): everything that moves when heads
      change places, with per-head norms and attention sinks;
    * `q` (K, G, d) and `k` (K, d): the coordinates that RoPE turns, with `planes` inside d; K is
      KV, or 1 where one key serves all heads;
    * `q_free` (KV, G, ·) and `k_free` (KV, ·): the coordinates of q and k that RoPE does not turn;
    * `q_norm`, `k_norm`: weights of norms over all heads, in the shapes of q and k; they move with
      q and k but do not change sign;
    * `v` (KV, d), `o` (KV, G, d).
    """

    index: int
    slots: Mapping[str, tuple[Slot, ...]]
    planes: Index
    """(P, 2): the two positions inside a head that RoPE turns together."""
    ffns: tuple[Mapping[str, tuple[Slot, ...]], ...]
    """Each feed-forward or expert: `gate` (activated), `up` (optional), `down`, index (F,)."""
    noised: tuple[str, ...]
    """Tensors that get noise, with norms and biases."""
    untouched: tuple[str, ...]
    """Tensors that must not get noise."""
    experts: Experts | None = None
    head_tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Norms stored as one tensor per head, by role (`query_heads`, `key_value_heads`)."""
    facts: Mapping[str, str | None] = field(default_factory=dict)
    """What the layer is (`sections.FACTS`); None and absent facts are unknown."""

    @property
    def roles(self) -> set[str]:
        """The roles of its slots, `ffn`, and `experts` if it has any."""
        return {*self.slots, "ffn", *(("experts",) if self.experts else ())}

    @property
    def group(self) -> str:
        """The name under which this layer's σ and offset are recorded."""
        return f"layer {self.index}"


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A whole model."""

    family: str
    layers: tuple[LayerLayout, ...]
    outside: Mapping[str, tuple[str, ...]]
    """The tensors outside the layers by role: embedding, final_norm, head and others."""
    excluded: Mapping[str, str]
    """Reasons by transform, of those that the family's file excludes by name."""
    left_alone: Mapping[str, str]
    """Reasons by tensor, of all tensors that never get noise."""
    config: Mapping[str, Any]
    """The language model's own configuration."""
    single_layer: Mapping[str, Mapping[str, Any]]
    """Changes to the configuration for a model of one `dense` or one `sparse` layer."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tensors that a client does not train: the embeddings and the tensors left alone.

        Rows of the embeddings that changed would reveal the tokens of the forget set. The tensors
        left alone are not part of the language model.
        """
        embeddings = [name for role in ("embedding", "head") for name in self.outside.get(role, ())]
        return (*embeddings, *sorted(self.left_alone))

    def layer_of(self) -> dict[str, int]:
        """The index of the layer, for each tensor of a layer that gets noise."""
        return {name: layer.index for layer in self.layers for name in layer.noised}

    def groups(self, scope: str) -> dict[str, tuple[str, ...]]:
        """The tensors that share one σ: each layer's, and with scope `all` each role's outside."""
        groups = {layer.group: layer.noised for layer in self.layers}
        if scope == "all":
            groups.update({role.replace("_", " "): names for role, names in self.outside.items()})
        return groups


def rope_planes(layout: str, rotary: int) -> Index:
    """RoPE planes of a head, (P, 2), i < r/2: (i, i + r/2) for `half`, else (2i, 2i + 1)."""
    import numpy as np

    first = np.arange(rotary // 2)
    if layout == "half":
        return np.stack([first, first + rotary // 2], axis=1)
    return np.stack([2 * first, 2 * first + 1], axis=1)
