"""An experiment as a Makefile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpu_cli.errors import UsageError
from mpu_cli.experiment.emit import HEADER, emitted_steps
from mpu_cli.experiment.runs import Experiment

_NOT_IN_TARGETS = frozenset(" \t#:%$=\\*?[]~;|&'\"")


def makefile(
    experiment: Experiment, keys: Mapping[str, str], work: Path, tables: Sequence[str]
) -> str:
    """The text of a Makefile: `make -j` runs all steps and then `tables`.

    Args:
        experiment: the plan and its steps.
        keys: the key of each step by name.
        work: the work directory.
        tables: the command that writes the tables of finished steps.

    Raises:
        UsageError: the work directory has a name, or an option a value, that make cannot read.
    """
    root = str(work.absolute())
    if _NOT_IN_TARGETS & set(root):
        raise UsageError(f"--work {root}: make cannot read this name", "choose another directory")
    steps = emitted_steps(experiment, keys, work)
    lines = [HEADER.format(name=experiment.plan.name, steps=len(steps), engine="make")]
    lines += ["#     make -j2 -f THIS_FILE", "", f"WORK := {root}", "STEPS := $(WORK)/steps", ""]
    lines += [".PHONY: tables", "tables: \\"]
    lines += [f"  $(STEPS)/{step.key}/step.json \\" for step in steps]
    lines += ["", f"\t{_recipe(tables)}", ""]
    for step in steps:
        # Order-only: a step's key says all about its inputs, so their times say nothing more.
        needs = "".join(f" $(STEPS)/{key}/step.json" for key in step.needs)
        lines += [
            f"# {step.name}",
            f"$(STEPS)/{step.key}/step.json:{' |' + needs if needs else ''}",
        ]
        lines += [f"\t@echo {shlex.quote(step.name)}".replace("$", "$$")]
        lines += [f"\t@{_recipe(step.command)}", ""]
    return "\n".join(lines)


def _recipe(command: Sequence[str]) -> str:
    for word in command:
        if "\n" in word or "\r" in word:
            raise UsageError(
                f"{word!r}: make reads no line break inside a command", "emit snakemake instead"
            )
    return shlex.join(command).replace("$", "$$")
