"""An experiment as a Snakefile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mpu_cli.experiment.emit import HEADER, emitted_steps
from mpu_cli.experiment.plan.schema import Resources
from mpu_cli.experiment.runs import Experiment
from mpu_cli.experiment.store import MARKS


def snakefile(
    experiment: Experiment, keys: Mapping[str, str], work: Path, tables: Sequence[str]
) -> str:
    """The text of a Snakefile, with what each step needs of a cluster (plan: `resources`).

    Args:
        experiment: the plan and its steps.
        keys: the key of each step by name.
        work: the work directory.
        tables: the command that writes the tables of finished steps.
    """
    steps, given = emitted_steps(experiment, keys, work), experiment.plan.resources
    # Snakemake makes the directory of an output and removes outputs of failed rules, so the rules
    # write markers beside the steps and not the steps themselves.
    marks = f"{work.absolute() / MARKS}/"
    lines = [HEADER.format(name=experiment.plan.name, steps=len(steps), engine="snakemake")]
    lines += ["#     snakemake --snakefile THIS_FILE --cores 2", "", f"DONE = {marks!r}"]
    lines += ["", "rule tables:", "    input:"]
    lines += [f"        DONE + {step.key!r}," for step in steps]
    lines += ["    shell:", f"        {_shell(tables)}", ""]
    for step in steps:
        lines += [f"# {step.name}", f"rule {step.kind}_{step.key}:"]
        if step.needs:
            lines += ["    input:", *(f"        ancient(DONE + {key!r})," for key in step.needs)]
        lines += ["    output:", f"        touch(DONE + {step.key!r})"]
        lines += _resources(given.get(step.kind) or given.get("default"))
        lines += ["    message:", f"        {_escaped(step.name)!r}"]
        lines += ["    shell:", f"        {_shell(step.command)}", ""]
    return "\n".join(lines)


def _resources(needs: Resources | None) -> list[str]:
    if needs is None:
        return []
    named = {"runtime": needs.minutes, "mem_mb": round(needs.memory_gb * 1000), "gpu": needs.gpus}
    return [
        f"    threads: {needs.cpus}",
        "    resources:",
        *(f"        {name}={number}," for name, number in named.items()),
    ]


def _shell(command: Sequence[str]) -> str:
    return repr(_escaped(shlex.join(command)))


def _escaped(text: str) -> str:
    """Snakemake reads {…} as a variable."""
    return text.replace("{", "{{").replace("}", "}}")
