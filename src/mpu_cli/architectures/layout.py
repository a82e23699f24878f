"""What the maths sees of a model: slots (tensor, axis, index), never names.

Shape letters: H query heads in KV groups of G = H / KV, d head size, D hidden, F feed-forward, E
experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one axis of one tensor stores a role.

    `index[...]` are positions along `axis`, which is `size` long.

    The shape of `index` says what the positions mean, see the roles of `LayerLayout`. Several slots
    may lie in one tensor (fused q, k and v).
    """

    tensor: str
    axis: int
    size: int
    index: Index


@dataclass(frozen=True, slots=True)
class Experts:
    """Experts that may change places.

    `index`-shaped (groups, E / groups), each expert's rows or tensors alike.
    """

    slots: tuple[Slot, ...]
    """Router rows and stacked tensors, index (groups, E / groups)."""
    tensors: tuple[tuple[str, ...], ...]
    """Per expert, its own tensors in one order; empty where the experts are stacked."""
    groups: int
    count: int


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """One decoder layer: its slots by role, and its tensors on disk.

    Roles, with the shape of their index:

    * `query_heads` (KV, G, ·) and `key_value_heads` (KV, ·): what moves when heads change places
      (per-head norms and
      attention sinks among them);
    * `q` (K, G, d) and `k` (K, d): what RoPE turns, with `planes` inside d; K is KV, or 1 where one
      key serves all heads;
    * `q_free` (KV, G, ·) and `k_free` (KV, ·): coordinates of q and k that RoPE leaves alone;
    * `q_norm`, `k_norm`: norms over all heads, shaped as q and k: their entries move with q and k,
      and take no sign;
    * `v` (KV, d), `o` (KV, G, d).
    """

    index: int
    slots: Mapping[str, tuple[Slot, ...]]
    planes: Index
    """(P, 2): the two positions inside a head that RoPE turns together."""
    ffns: tuple[Mapping[str, tuple[Slot, ...]], ...]
    """Every feed-forward or expert.

    `gate` (the activated branch), `up` (the linear one, if any), `down`, index (F,).
    """
    noised: tuple[str, ...]
    """Tensors that a perturbation moves, norms and biases among them."""
    untouched: tuple[str, ...]
    """Tensors that it must not move."""
    experts: Experts | None = None
    head_tensors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Norms stored as one tensor per head, by role (`query_heads`, `key_value_heads`)."""
    facts: Mapping[str, str | None] = field(default_factory=dict)
    """What the layer is (`sections.FACTS`); None and absent facts are unknown."""

    @property
    def group(self) -> str:
        """The name under which this layer's σ and offset are recorded."""
        return f"layer {self.index}"


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A whole model: its layers, and the tensors outside of them by role (embedding, final_norm, head, …)."""

    family: str
    layers: tuple[LayerLayout, ...]
    outside: Mapping[str, tuple[str, ...]]
    excluded: Mapping[str, str]
    """Reasons by transform, of those that the family's file excludes by name."""
    left_alone: Mapping[str, str]
    """Reasons by tensor, of all tensors that never get noise."""
    config: Mapping[str, Any]
    """The language model's own configuration."""
    single_layer: Mapping[str, Mapping[str, Any]]
    """What the configuration must say besides for a model of one `dense` or one `sparse` layer."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tensors that a client leaves as they are.

        Rows of the embeddings that moved would spell out the forget set's tokens; what is left
        alone is no part of the language model.
        """
        embeddings = [name for role in ("embedding", "head") for name in self.outside.get(role, ())]
        return (*embeddings, *sorted(self.left_alone))

    def layer_of(self) -> dict[str, int]:
        """The layer's index of every tensor that a layer's noise moves."""
        return {name: layer.index for layer in self.layers for name in layer.noised}

    def groups(self, scope: str) -> dict[str, tuple[str, ...]]:
        """The tensors that share one σ, by group.

        Each layer, and with scope `all` each role outside too.
        """
        groups = {layer.group: layer.noised for layer in self.layers}
        if scope == "all":
            groups.update({role.replace("_", " "): names for role, names in self.outside.items()})
        return groups


def rope_planes(layout: str, rotary: int) -> Index:
    """The RoPE planes of a head, (P, 2).

    (i, i + r/2) stored half-split, (2i, 2i + 1) interleaved, i < r/2.
    """
    first = np.arange(rotary // 2)
    if layout == "half":
        return np.stack([first, first + rotary // 2], axis=1)
    return np.stack([2 * first, 2 * first + 1], axis=1)
