"""The steps of an experiment for other engines: a Makefile or a Snakefile with one rule a step.

Every rule runs `python -m mpu_cli.experiment.child`, as `mpu run` does: a rule whose step is done
does nothing, and the noise is that of `mpu run`, bit for bit.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

from mpu_cli.experiment.child import Task
from mpu_cli.experiment.runs import Experiment

_MADE_BY = "Made by mpu run --emit"
HEADER = f"""\
# {{name}}: {{steps:,}} steps. {_MADE_BY} {{engine}}; edit the plan, not this file.
#
# A step is a command of one party in a directory of its own, steps/KEY below the work directory, as
# mpu run makes it: both can work on one directory, one after the other, and find each other's steps
# done. Steps that were interrupted begin again, or go on from their checkpoint. Outputs stay until
# mpu run removes them. Secrets follow from the plan (origin: test), so that all engines give the
# same bits; they hide nothing.
"""


def is_made(path: Path) -> bool:
    """Whether a file of rules is one of ours."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return _MADE_BY.encode() in file.readline(4096)


@dataclass(frozen=True, slots=True)
class EmittedStep:
    """One rule."""

    name: str
    kind: str
    key: str
    needs: tuple[str, ...]
    """Keys of the steps before it."""
    command: tuple[str, ...]
    """The whole command line."""


def emitted_steps(experiment: Experiment, keys: Mapping[str, str], work: Path) -> list[EmittedStep]:
    """All steps, each after those that it needs.

    Args:
        experiment: the plan and its steps.
        keys: the key of each step by name.
        work: the work directory.
    """
    steps = experiment.graph.steps
    order = TopologicalSorter({name: sorted(step.needs()) for name, step in steps.items()})
    return [
        EmittedStep(
            name,
            steps[name].kind,
            keys[name],
            tuple(sorted({keys[need] for need in steps[name].needs()})),
            (sys.executable, "-m", *Task.of(steps[name], keys, work.absolute()).command()),
        )
        for name in order.static_order()
    ]
