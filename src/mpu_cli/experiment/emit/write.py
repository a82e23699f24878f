"""Write the rules of an experiment beside its plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.experiment.emit.make import makefile
from mpu_cli.experiment.emit.snakemake import snakefile
from mpu_cli.experiment.runs import Experiment
from mpu_cli.experiment.write_results import PLAN

_WRITERS = {"make": ("Makefile", makefile), "snakemake": ("Snakefile", snakefile)}


def write_rules(
    engine: Literal["make", "snakemake"],
    out: Path,
    experiment: Experiment,
    keys: Mapping[str, str],
    work: Path,
    tables: Sequence[str],
) -> Path:
    """Write plan.yaml and the rules into `out`; return the file of rules.

    Args:
        engine: whose rules.
        out: the directory of the results.
        experiment: the plan and its steps.
        keys: the key of each step by name.
        work: the work directory.
        tables: the command that writes the tables of finished steps.

    Raises:
        OutputError: a file cannot be written.
        UsageError: make cannot read a name or a value.
    """
    name, write = _WRITERS[engine]
    # The rules first: they mark a directory of results.
    files = {name: write(experiment, keys, work, tables).encode(), PLAN: experiment.plan.text}
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            with staged_file(out / file, force=True) as staged:
                staged.write(content)
    return out / name
