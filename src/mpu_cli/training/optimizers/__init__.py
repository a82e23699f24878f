"""The optimizers, one file each, found by looking into this directory.

Adding one touches only its own file.

A file `some_name.py` defines one function under the `optimizer` decorator, which says where the
optimizer comes from and whether its update is smooth in the gradient. That decides whether
denoising works (docs/design.md, Protocol): the first-order error of the copies cancels only
through a smooth update. On the command line it is `some-name`. Files whose names begin with an
underscore are shared by the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.registry import Registry, choose, instances

Groups = list[dict[str, Any]]
"""Parameter groups as torch takes them: `params`, a list of (name in the model, parameter), and `weight_decay`."""
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
    """Whether it may run where a process holds a part of each tensor (FSDP).

    Its rule treats every entry alone.
    """


def optimizer(
    *, source: str, smooth: bool, sharded: bool = False
) -> Callable[[Build], OptimizerSpec]:
    """Declare an optimizer; its name is that of its file, with hyphens.

    Args:
        source: the paper, and whose implementation is used.
        smooth: the update is a smooth function of the gradient (no per-entry normalisation).
        sharded: see `OptimizerSpec`.
    """

    def declare(build: Build) -> OptimizerSpec:
        return OptimizerSpec(
            _name(build.__module__.rpartition(".")[2]), source, smooth, build, sharded
        )

    return declare


_read = instances(__name__, OptimizerSpec)
_OPTIMIZERS = Registry("optimizer", Path(__file__).parent, _read)


def names() -> list[str]:
    """List all optimizers as users write them, sorted; nothing is imported."""
    return sorted(_name(stem) for stem in _OPTIMIZERS.files())


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
