"""The optimizers, one file each, found by looking into this directory: adding one touches only its own file.

A file `NAME.py` defines one function under the `optimizer` decorator, which says where the optimizer comes from and
whether its update is smooth in the gradient. That decides whether denoising works (design, section 7): the first-order
error of the copies cancels only through a smooth update.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.errors import UsageError

Build = Callable[[list[dict[str, Any]], float], Any]
"""(parameter groups with their own `weight_decay`, learning rate) → a torch optimizer."""


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """What an optimizer's file declares, and how to build it."""

    name: str
    source: str
    smooth: bool
    build: Build


def optimizer(*, source: str, smooth: bool) -> Callable[[Build], OptimizerSpec]:
    """Declare an optimizer; its name is that of its file.

    Args:
        source: the paper, and whose implementation is used.
        smooth: the update is a smooth function of the gradient (no per-entry normalisation).
    """

    def declare(build: Build) -> OptimizerSpec:
        return OptimizerSpec(build.__module__.rpartition(".")[2], source, smooth, build)

    return declare


def names() -> list[str]:
    """All optimizers, sorted; nothing is imported."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))


def get(name: str) -> OptimizerSpec:
    """The optimizer of that name (upper or lower case).

    Raises:
        UsageError: there is none; the message names the nearest.
    """
    known = names()
    if name.lower() not in known:
        nearest = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else None
        raise UsageError(f"--optimizer {name}: unknown, expected one of {', '.join(known)}", hint)
    module = importlib.import_module(f"{__name__}.{name.lower()}")
    return next(value for value in vars(module).values() if isinstance(value, OptimizerSpec))
