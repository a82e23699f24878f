"""The two linear maps that every transform is made of, each acting along one axis of one tensor.

Torch is imported when a map is applied: `mpu inspect` asks transforms whether they apply, and never
imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mpu_cli.architectures.layout import Index, Slot

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SignedPermutation:
    """new[i] = sign[i] · old[source[i]] along `axis`."""

    axis: int
    source: Index
    sign: np.ndarray
    """±1, any integer dtype."""
    exact: bool = True

    @classmethod
    def on_slot(cls, slot: Slot, source: Index, sign: Index) -> SignedPermutation:
        """A signed permutation of a slot's positions, as one of the whole axis.

        Args:
            slot: has n positions.
            source: flat numbers 0 … n − 1, in the shape of the slot's index.
            sign: ±1, broadcast to that shape.
        """
        flat = slot.index.ravel()
        signs = np.broadcast_to(sign, slot.index.shape).ravel().astype(np.int8)
        if flat.size == slot.size and bool((flat == np.arange(slot.size)).all()):
            # The whole axis in order: gate, up and down of an expert share one array, which saves
            # memory with many experts.
            return cls(slot.axis, source.ravel(), signs)
        full_source, full_sign = np.arange(slot.size), np.ones(slot.size, dtype=np.int8)
        full_source[flat] = flat[source.ravel()]
        full_sign[flat] = signs
        return cls(slot.axis, full_source, full_sign)

    @classmethod
    def moving(cls, slot: Slot, source: Index) -> SignedPermutation:
        """`on_slot` without signs."""
        return cls.on_slot(slot, source, np.ones_like(source))

    @classmethod
    def inside_heads(cls, slot: Slot, source: Index, sign: Index) -> SignedPermutation:
        """One signed permutation per key-value head, (KV, d), for all heads of its group."""
        kv_heads, size = source.shape
        first = np.arange(slot.index.size).reshape(slot.index.shape)[..., :1]
        grouped = (kv_heads, *(1,) * (slot.index.ndim - 2), size)
        return cls.on_slot(slot, first + source.reshape(grouped), sign.reshape(grouped))

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Move the entries and sign them."""
        import torch

        moved = tensor.index_select(self.axis, torch.from_numpy(self.source))
        if bool((self.sign < 0).any()):
            shape = [1] * tensor.dim()
            shape[self.axis] = -1
            moved *= torch.from_numpy(self.sign).to(tensor.dtype).view(shape)
        return moved

    def inverse(self) -> SignedPermutation:
        """The map that moves the entries back."""
        back = np.argsort(self.source)
        return SignedPermutation(self.axis, back, self.sign[back])


@dataclass(frozen=True, slots=True)
class PlaneRotation:
    """(a, b) → (cos·a − sin·b, sin·a + cos·b) for pairs of positions along `axis`."""

    axis: int
    first: Index
    second: Index
    angle: np.ndarray
    """Radians, one per pair, float64."""
    exact: bool = False

    def apply(self, tensor: torch.Tensor) -> torch.Tensor:
        """Turn every pair by its angle."""
        import torch

        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        cos = torch.from_numpy(np.cos(self.angle)).view(shape)
        sin = torch.from_numpy(np.sin(self.angle)).view(shape)
        first, second = torch.from_numpy(self.first), torch.from_numpy(self.second)
        # In float64: float32 would add rounding to every entry, there and back.
        a = tensor.index_select(self.axis, first).double()
        b = tensor.index_select(self.axis, second).double()
        turned = tensor.clone()
        turned.index_copy_(self.axis, first, (cos * a - sin * b).to(tensor.dtype))
        turned.index_copy_(self.axis, second, (sin * a + cos * b).to(tensor.dtype))
        return turned

    def inverse(self) -> PlaneRotation:
        """The rotation by the negative angles."""
        return PlaneRotation(self.axis, self.first, self.second, -self.angle)


AxisMap = SignedPermutation | PlaneRotation
"""An orthogonal map along one axis; `exact` ones return the same bits when they are inverted."""


def on_slots(
    slots: Iterable[Slot], make: Callable[[Slot], AxisMap], maps: dict[str, list[AxisMap]]
) -> None:
    """Append `make(slot)` to the maps of every slot's tensor; one tensor may hold several slots."""
    for slot in slots:
        maps.setdefault(slot.tensor, []).append(make(slot))
