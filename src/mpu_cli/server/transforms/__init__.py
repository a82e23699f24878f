"""Reparameterizations: transforms that move a layer's weights and keep its function.

`kinds` has one file for each transform. This package may import `architectures` and
`server.secrets`, and nothing else of `server`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from mpu_cli.architectures.layout import LayerLayout
    from mpu_cli.server.secrets.randomness import IntegerStream
    from mpu_cli.server.transforms.draw import DrawnTransform


class Transform(Protocol):
    """What a file in this folder provides."""

    EXACT: bool
    EQUIVARIANT: frozenset[str]

    def draw(self, layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
        """Draw one random transform of a layer."""
        ...


def load(name: str) -> Transform:
    """Import one transform by its file name."""
    return cast(Transform, import_module(f"{__name__}.kinds.{name}"))
