"""`mpu run`: an experiment with both parties, from a plan to tables (researcher)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import Shared
from mpu_cli.cli.output import Output, facts
from mpu_cli.errors import CheckFailedError, StoppedError
from mpu_cli.option import REQUIRED, option, same_option

if TYPE_CHECKING:
    from mpu_cli.experiment.run import Executor, Failure, RunOutcome
    from mpu_cli.experiment.runs import Experiment
    from mpu_cli.experiment.schedule import Work
    from mpu_cli.experiment.store import Store

GUIDE = Guide(
    "researcher",
    "Run an experiment: methods, noise, copies, rounds and seeds.",
    (
        "mpu run plan.yaml --dry-run",
        "mpu run plan.yaml --out results --jobs 2",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions(Job):
    """What `mpu run` was asked to do."""

    plan: Path = option(REQUIRED, "Plan of the experiment, a YAML file.", panel="Data", flag="PLAN")
    out: Path = option(
        Path("results"),
        "Directory for the tables: runs.csv, rounds.csv, steps.csv.",
        panel="Output",
        metavar="DIR",
    )
    work: Path = option(
        Path("mpu-work"),
        "Directory of the steps. Plans that share it share their steps.",
        metavar="DIR",
    )
    keep: Literal["results", "all"] = option(
        "results", "Which outputs stay on the disk when no step needs them any more."
    )
    dry_run: bool = same_option(Shared, "dry_run")
    jobs: int = option(1, "Steps that run at the same time.", panel="General", least=1)
    executor: Literal["local", "slurm"] = option(
        "local", "Where steps run: as processes here, or each as a job of Slurm."
    )


@command()
def run(job: RunOptions, output: Output) -> None:
    """Run every step of a plan, and write its tables.

    Each step is an mpu command of one party in a directory of its own. Finished steps are found
    again by their contents: after an interruption the same command goes on where it was, and plans
    that share a work directory run their common steps once. Secrets are derived from the plan, so
    that every run gives the same bits; they hide nothing, and every command says so.
    """
    from mpu_cli.cli.parse_only import commands
    from mpu_cli.experiment.graph import build
    from mpu_cli.experiment.lock import locked
    from mpu_cli.experiment.plan.read import read_plan
    from mpu_cli.experiment.provenance import versions
    from mpu_cli.experiment.schedule import Work
    from mpu_cli.experiment.store import Store
    from mpu_cli.experiment.write_results import require_results_directory, write_results

    with output.progress("reading the plan"):
        known = commands()
        experiment = build(read_plan(job.plan, known), known)
        keys = experiment.graph.keys(versions())
    work, store = Work.of(experiment.graph, keys), Store(job.work)
    if job.dry_run:
        _forecast(work, store, job.jobs, output)
        return
    require_results_directory(job.out)
    store.open()
    with locked(store.root, output.note):
        outcome = None
        try:
            outcome = _run(job, experiment, keys, work, store, output)
        finally:  # also after Ctrl-C: what is done is shown
            complete = outcome is not None and not outcome.failures
            rows = write_results(job.out, experiment, keys, store, complete=complete)
    _report(job, experiment, outcome, rows, output)


def _forecast(work: Work, store: Store, jobs: int, output: Output) -> None:
    from mpu_cli.cli.run_view import forecast_facts
    from mpu_cli.experiment.estimate import forecast

    expected = forecast(work, store, jobs)
    to_make = sum(expected.to_make.values())
    brief = f"{to_make:,} of {expected.steps:,} steps to make"
    output.result(asdict(expected), facts(forecast_facts(expected)), brief=brief)


def _run(
    job: RunOptions,
    experiment: Experiment,
    keys: dict[str, str],
    work: Work,
    store: Store,
    output: Output,
) -> RunOutcome:
    from mpu_cli.cli.run_view import watching
    from mpu_cli.experiment.estimate import History
    from mpu_cli.experiment.run import run_steps

    make = work.to_make(store.finished)
    to_make = {work.steps[key].name: work.steps[key] for key in work.steps if key in make}
    output.note(f"{len(work.steps):,} steps, of which {len(work.steps) - len(make):,} are done")
    history = History.of(store.all_finished() if make else ())
    executor = _executor(job, experiment, store)
    try:
        with watching(output, to_make, history, job.jobs) as view:
            return run_steps(work, keys, store, executor, view, jobs=job.jobs, keep=job.keep)
    except KeyboardInterrupt as stop:
        raise StoppedError(
            f"interrupted; {view.made} of {view.total} steps were made",
            "run the same command again: it goes on from there",
        ) from stop


def _executor(job: RunOptions, experiment: Experiment, store: Store) -> Executor:
    from mpu_cli.experiment.executors.local import LocalExecutor

    return LocalExecutor()


def _report(
    job: RunOptions, experiment: Experiment, outcome: RunOutcome, rows: int, output: Output
) -> None:
    data = {
        "out": str(job.out),
        "steps": outcome.found + outcome.made + len(outcome.failures) + len(outcome.not_run),
        "found": outcome.found,
        "made": outcome.made,
        "failed": [_failed(failure) for failure in outcome.failures],
        "not_run": list(outcome.not_run),
        "runs": len(experiment.runs),
        "rows": rows,
    }
    summary = facts(
        {
            "steps": f"{outcome.made:,} made, {outcome.found:,} found done",
            "runs": f"{rows:,} of {len(experiment.runs):,}",
        }
    )
    if not outcome.failures:
        output.result(data, summary, "", f"tables  {job.out}", brief=f"tables {job.out}")
        return
    first = outcome.failures[0]
    more = f" (and {len(outcome.failures) - 1} more)" if len(outcome.failures) > 1 else ""
    output.refuse(
        CheckFailedError(
            f"{first.name}: {first.why}{more}; {len(outcome.not_run)} steps that depend on it were"
            " not run",
            f"see {first.log}; then run the same command again: it goes on from there",
        ),
        data,
        summary,
    )


def _failed(failure: Failure) -> dict[str, str]:
    return {"step": failure.name, "why": failure.why, "log": str(failure.log)}
