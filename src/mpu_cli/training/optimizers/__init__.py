"""The optimizers; adding one is adding a file to this directory.

A file `some_name.py` defines one function under the `optimizer` decorator, which says where the
optimizer comes from and whether its update is smooth in the gradient. Denoising depends on that
(docs/design.md, Protocol): the first-order error of the copies cancels only through a smooth
update. On the command line the optimizer is `some-name`. Names of shared files begin with `_`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.registry import Registry, choose, instances

Groups = list[dict[str, Any]]
"""Parameter groups for torch: `params`, a list of (name, parameter), and `weight_decay`."""
Build = Callable[[Groups, float, Mapping[str, Any]], Any]
"""(groups, learning rate, the model's configuration as in config.json) → a torch optimizer."""


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """What an optimizer's file declares, and how to build it."""

    name: str
    source: str
    smooth: bool
    build: Build
    sharded: bool = False
    """Whether its rule treats every entry alone, so that FSDP may split a tensor."""
    commutes_with_rotations: bool = False
    """Whether its rule treats the entries of a head alike, as `--reparam rotation` needs."""


def optimizer(
    *, source: str, smooth: bool, sharded: bool = False, commutes_with_rotations: bool = False
) -> Callable[[Build], OptimizerSpec]:
    """Declare an optimizer; its name is that of its file, with hyphens.

    Args:
        source: the paper, and whose implementation is used.
        smooth: the update is a smooth function of the gradient (no per-entry normalisation).
        sharded: the rule treats every entry alone (FSDP).
        commutes_with_rotations: the rule treats the entries of a head alike.
    """

    def declare(build: Build) -> OptimizerSpec:
        name = _name(build.__module__.rpartition(".")[2])
        return OptimizerSpec(name, source, smooth, build, sharded, commutes_with_rotations)

    return declare


_read = instances(__name__, OptimizerSpec)
_OPTIMIZERS = Registry("optimizer", Path(__file__).parent, _read)


def names() -> list[str]:
    """List all optimizers as users write them, sorted; nothing is imported."""
    return sorted(_name(stem) for stem in _OPTIMIZERS.files())


def sharded_names() -> list[str]:
    """List the optimizers that can train a model sharded over processes; imports all."""
    return [spec.name for spec in _OPTIMIZERS.entries().values() if spec.sharded]


def find(name: str) -> str:
    """The optimizer's own name, given in upper or lower case; nothing is imported.

    Raises:
        UsageError: there is none; the hint names the nearest.
    """
    return choose("--optimizer", _name(name), names())


def get(name: str) -> OptimizerSpec:
    """The optimizer of that name (upper or lower case).

    Raises:
        UsageError: there is none; the hint names the nearest.
        BadInputError: its file is broken.
    """
    return _OPTIMIZERS.load(find(name).replace("-", "_"), _read)[0]


def _name(stem: str) -> str:
    return stem.replace("_", "-")
