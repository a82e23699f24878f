"""Write an experiment's results into its directory; each file appears whole."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import OutputError
from mpu_cli.experiment.emit import is_made
from mpu_cli.experiment.provenance import provenance
from mpu_cli.experiment.results import Results, table
from mpu_cli.experiment.runs import Experiment
from mpu_cli.experiment.store import Store

PLAN, _RUNS = "plan.yaml", "runs.csv"


def require_results_directory(out: Path) -> None:
    """Refuse a directory that cannot be made, or that holds something else than results.

    Results are runs.csv, or the rules of `mpu run --emit`. A plan.yaml alone may be the user's own,
    and would be replaced.

    Raises:
        OutputError: see above.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: exists and is not a directory", "choose another --out")
    place = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"{out}: cannot be written", "choose another --out")
    if place == out and any(out.iterdir()) and not _holds_results(out):
        raise OutputError(
            f"{out}: has files, but no {_RUNS} of an earlier run", "choose another --out directory"
        )


def _holds_results(out: Path) -> bool:
    return (out / _RUNS).is_file() or any(is_made(out / name) for name in ("Makefile", "Snakefile"))


def write_results(
    out: Path, experiment: Experiment, keys: Mapping[str, str], store: Store, *, complete: bool
) -> int:
    """Write runs.csv, plan.yaml, rounds.csv, steps.csv and provenance.json.

    Returns:
        The number of runs whose steps are all done: the rows of runs.csv.

    Raises:
        OutputError: a file cannot be written.
    """
    results = Results(experiment, keys, store)
    runs, axes = results.runs(), results.axes()
    facts = provenance(experiment, keys, complete=complete)
    files = {
        _RUNS: table(runs, axes, "rounds").encode(),  # first: it marks a directory of results
        PLAN: experiment.plan.text,
        "rounds.csv": table(results.rounds(), axes, "round").encode(),
        "steps.csv": _steps(experiment, keys, store).encode(),
        "provenance.json": (json.dumps(facts, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            with staged_file(out / name, force=True) as file:
                file.write(content)
    return len(runs)


def _steps(experiment: Experiment, keys: Mapping[str, str], store: Store) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("step", "kind", "party", "seconds", "bytes", "key"))
    for name, step in experiment.graph.steps.items():
        done = store.finished(keys[name])
        seconds, nbytes = ("", "") if done is None else (repr(done.seconds), str(done.nbytes))
        writer.writerow((name, step.kind, step.party, seconds, nbytes, keys[name]))
    return text.getvalue()
