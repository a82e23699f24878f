"""Reparameterizations: transforms that move a layer's weights and keep its function.

`kinds` has one file for each transform, found by looking (docs/how-to/add-a-transform.md). A file
states which facts about a layer the transform needs, and no family names a transform. This package
may import `architectures` and `server.secrets`, and nothing else of `server`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, cast, get_args

from mpu_cli.registry import Registry, did_you_mean

if TYPE_CHECKING:
    from mpu_cli.architectures.layout import LayerLayout
    from mpu_cli.server.secrets.randomness import IntegerStream
    from mpu_cli.server.transforms.reparameterization import Reparameterization

Reparam = Literal["signed-permutation", "rotation", "paper-rotation", "none"]
REPARAMETERIZATIONS: tuple[str, ...] = get_args(Reparam)
"""The choices of `--reparam`. Like the authors, `paper-rotation` has no signs in feed-forwards."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a reparameterization uses a transform."""

    step: int
    """Transforms are applied in the order of their steps."""
    choice: int = 0
    """Of one step, only the transform with the lowest choice that keeps the function is used."""
    required: bool = False
    """Whether a model whose function it would change is refused."""


class Transform(Protocol):
    """What a file in `kinds` provides."""

    USES: Mapping[str, Use]
    """By reparameterization."""
    NEEDS: Mapping[str, Collection[str]]
    """By fact (`architectures.sections.FACTS`), the values with which it keeps the function."""
    ACTS_ON: str
    """The role (`LayerLayout.roles`) without which a layer has nothing for it to move."""
    EXACT: bool
    """Whether it only moves and negates entries: every optimizer commutes with it."""

    def draw(self, layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
        """Draw one random transform of a layer."""
        ...


def load(name: str) -> Transform:
    """Import one transform by its file name.

    Raises:
        ValueError: the file lacks something, or names a fact or a reparameterization that does not
            exist.
    """
    from mpu_cli.architectures.sections import FACTS  # not above: perturb --help needs no facts

    module = import_module(f"{__name__}.kinds.{name}")
    for attribute in ("USES", "NEEDS", "EXACT", "ACTS_ON", "draw"):
        if not hasattr(module, attribute):
            raise ValueError(f"declares no {attribute}")
    transform = cast(Transform, module)
    for words, known in ((transform.NEEDS, FACTS), (transform.USES, REPARAMETERIZATIONS)):
        for word in set(words) - set(known):
            hint = did_you_mean(word, known, f"expected one of {', '.join(known)}")
            raise ValueError(f"unknown name {word!r}, {hint}")
    return transform


REGISTRY = Registry(
    "transform",
    Path(__file__).parent / "kinds",
    lambda path: [(path.stem, load(path.stem))],
    name=lambda entry: entry[0],
)


def names() -> tuple[str, ...]:
    """All transforms by their file names; none is imported."""
    return tuple(REGISTRY.files())


def transforms() -> dict[str, Transform]:
    """All transforms by name; a broken file is skipped with a warning."""
    return dict(REGISTRY.entries().values())
