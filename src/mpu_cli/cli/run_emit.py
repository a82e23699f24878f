"""`mpu run --emit`: the steps for make or Snakemake, and the command that writes their tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Literal

from mpu_cli.cli.output import Output

if TYPE_CHECKING:
    from mpu_cli.experiment.runs import Experiment

Engine = Literal["make", "snakemake"]
_COMMANDS: Mapping[Engine, str] = {
    "make": "make -j2 -f",
    "snakemake": "snakemake --cores 2 --snakefile",
}


def emit(
    engine: Engine,
    experiment: Experiment,
    keys: Mapping[str, str],
    places: Mapping[str, Path | str | None],
    output: Output,
) -> None:
    """Write the rules into `--out`, and say how to run them.

    Args:
        engine: whose rules.
        experiment: the plan and its steps.
        keys: the key of each step by name.
        places: the options that make `mpu run` read the same plan, by flag, and "PLAN".
        output: where the result is printed.
    """
    from mpu_cli.experiment.emit.write import write_rules

    out, work = Path(str(places["--out"])), Path(str(places["--work"]))
    file = write_rules(engine, out, experiment, keys, work, same_run(places))
    output.result(
        {"file": str(file), "steps": len(keys)},
        f"{len(keys):,} steps in {file}",
        f"next  {_COMMANDS[engine]} {quote(str(file))}",
        brief=f"steps {file}",
    )


def same_run(places: Mapping[str, Path | str | None]) -> list[str]:
    """The command that runs the same plan from any directory, and so finds its steps done."""
    words = [sys.executable, "-m", "mpu_cli", "run"]
    for flag, value in places.items():
        if value is None:
            continue
        is_path = isinstance(value, Path) or Path(value).exists()
        text = str(Path(value).absolute() if is_path else value)
        words += [text] if flag == "PLAN" else [flag, text]
    return [*words, "--keep", "all"]  # the rules need what a later plan may read
