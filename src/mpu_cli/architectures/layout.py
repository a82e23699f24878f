"""What the maths sees of a model: slots (tensor, axis, index), never names.

Shape letters: H query heads in KV groups of G = H / KV, d head size, D hidden, F feed-forward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Index = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one axis of one tensor stores a role: `index[...]` are positions along `axis`, which is `size` long.

    The shape of `index` says what the positions mean: (KV, G, d) for q and o, (KV, d) for k and v, (F,) for the
    feed-forward.
    """

    tensor: str
    axis: int
    size: int
    index: Index


@dataclass(frozen=True, slots=True)
class LayerLayout:
    """One decoder layer: its slots by role, and its tensors on disk.

    `slots` has the roles q, k, v, o, gate, up, down. `noised` are the tensors that a perturbation moves (norms and
    biases among them), `untouched` those that it must not.
    """

    index: int
    slots: Mapping[str, tuple[Slot, ...]]
    planes: Index
    """(P, 2): the two positions inside a head that RoPE turns together."""
    noised: tuple[str, ...]
    untouched: tuple[str, ...]

    @property
    def group(self) -> str:
        """The name under which this layer's σ and offset are recorded."""
        return f"layer {self.index}"


@dataclass(frozen=True, slots=True)
class ModelLayout:
    """A whole model: its layers, and the tensors outside of them by role (embedding, final_norm, head)."""

    family: str
    layers: tuple[LayerLayout, ...]
    outside: Mapping[str, str]
    transforms: Mapping[str, bool]
    """Which transforms keep this family's function."""

    @property
    def frozen(self) -> tuple[str, ...]:
        """Tensors that a client leaves as they are: rows that moved would spell out the forget set's tokens."""
        return tuple(self.outside[role] for role in ("embedding", "head") if role in self.outside)

    def groups(self, scope: str) -> dict[str, tuple[str, ...]]:
        """The tensors that share one σ, by group: each layer, and with scope `all` each tensor outside too."""
        groups = {layer.group: layer.noised for layer in self.layers}
        if scope == "all":
            groups.update({role.replace("_", " "): (name,) for role, name in self.outside.items()})
        return groups


def rope_planes(layout: str, rotary: int) -> Index:
    """The RoPE planes of a head, (P, 2): (i, i + r/2) stored half-split, (2i, 2i + 1) interleaved, i < r/2."""
    first = np.arange(rotary // 2)
    if layout == "half":
        return np.stack([first, first + rotary // 2], axis=1)
    return np.stack([2 * first, 2 * first + 1], axis=1)
