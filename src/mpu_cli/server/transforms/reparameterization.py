"""T_k as maps of tensors: applied and inverted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mpu_cli.server.transforms.axis_maps import AxisMap

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Reparameterization:
    """One transform of one layer, or all of them (T_k), by the names of θ's tensors."""

    maps: Mapping[str, Sequence[AxisMap]]
    """In the order of application."""
    targets: Mapping[str, str] = field(default_factory=dict)
    """For tensors that change places whole (experts): the name in the copy, by the name in θ."""

    def target(self, name: str) -> str:
        """The name of T(θ's tensor `name`) in the copy."""
        return self.targets.get(name, name)

    def apply(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """T(tensor); a tensor that T does not touch is returned itself."""
        for axis_map in self.maps.get(name, ()):
            tensor = axis_map.apply(tensor)
        return tensor

    def invert(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """T⁻¹(tensor)."""
        for axis_map in reversed(self.maps.get(name, ())):
            tensor = axis_map.inverse().apply(tensor)
        return tensor

    @property
    def exact(self) -> bool:
        """Whether T⁻¹T returns the same bits."""
        return all(axis_map.exact for maps in self.maps.values() for axis_map in maps)
