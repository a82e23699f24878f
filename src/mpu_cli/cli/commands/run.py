"""`mpu run`: an experiment with both parties, from a plan to tables (researcher)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import Shared
from mpu_cli.cli.output import Output, facts
from mpu_cli.cli.run_emit import Engine, emit
from mpu_cli.errors import CheckFailedError, StoppedError, UsageError
from mpu_cli.option import option, same_option

if TYPE_CHECKING:
    from mpu_cli.experiment.plan.commands import Commands
    from mpu_cli.experiment.plan.schema import ExperimentPlan
    from mpu_cli.experiment.run import Executor, Failure, RunOutcome
    from mpu_cli.experiment.runs import Experiment
    from mpu_cli.experiment.schedule import Work
    from mpu_cli.experiment.store import Store

PresetName = Literal["paper-tofu", "paper-muse"]

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

    plan: Path | None = option(
        None, "Plan of the experiment, a YAML file.", panel="Data", flag="PLAN", metavar="PLAN"
    )
    prepared_plan: PresetName | None = option(
        None,
        "Instead of a plan: the runs of the paper's authors, for your model and rows.",
        flag="--preset",
    )
    data: str | None = option(
        None,
        "Rows of the preset: a directory with the benchmark's files, or hf://datasets/org/name.",
        metavar="DIR",
        shown="where the Hub has them",
    )
    model: str | None = option(
        None, "Model of the preset: directory or Hub id.", panel="Model", metavar="MODEL"
    )
    base: str | None = option(
        None, "Base of the preset's model: directory or Hub id.", metavar="MODEL"
    )
    retain_model: str | None = option(
        None, "Model that never saw the preset's forget set.", metavar="MODEL"
    )
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
    emit: Engine | None = option(
        None, "Write the steps as a Makefile or a Snakefile into --out, and stop."
    )
    keep: Literal["results", "all"] = option(
        "results", "Which outputs stay on the disk when no step needs them any more."
    )
    dry_run: bool = same_option(Shared, "dry_run")
    jobs: int = option(1, "Steps that run at the same time.", panel="General", least=1)
    executor: Literal["local", "slurm"] = option(
        "local", "Where steps run: as processes here, or each as a job of Slurm."
    )

    @property
    def places(self) -> Mapping[str, Path | str | None]:
        """The options that say what is run and where, by flag."""
        return {
            "PLAN": self.plan,
            "--preset": self.prepared_plan,
            "--data": self.data,
            "--model": self.model,
            "--base": self.base,
            "--retain-model": self.retain_model,
            "--out": self.out,
            "--work": self.work,
        }


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
    from mpu_cli.experiment.provenance import versions
    from mpu_cli.experiment.schedule import Work
    from mpu_cli.experiment.store import Store
    from mpu_cli.experiment.write_results import require_results_directory, write_results

    if job.emit is not None and job.executor != "local":
        raise UsageError(
            f"--executor {job.executor} has no effect with --emit",
            "the engine that runs the rules has executors of its own",
        )
    with output.progress("reading the plan"):
        known = commands()
        experiment = build(_plan(job, known), known)
        keys = experiment.graph.keys(versions())
    for text in experiment.warnings:
        output.warn(text)
    work, store = Work.of(experiment.graph, keys), Store(job.work)
    if job.dry_run:
        _forecast(work, store, job.jobs, output)
        return
    require_results_directory(job.out)
    if job.emit is not None:
        emit(job.emit, experiment, keys, job.places, output)
        return
    store.open()
    with locked(store.root, output.note):
        outcome = None
        try:
            outcome = _run(job, experiment, keys, work, store, output)
        finally:  # also after Ctrl-C: what is done is shown
            complete = outcome is not None and not outcome.failures
            rows = write_results(job.out, experiment, keys, store, complete=complete)
    _report(job, experiment, outcome, rows, output)


def _plan(job: RunOptions, known: Commands) -> ExperimentPlan:
    from mpu_cli.experiment.plan.read import read_plan
    from mpu_cli.experiment.presets import HUB, PresetModels, preset_plan

    for_preset = ("model", "base", "retain_model", "data")
    if (job.plan is None) == (job.prepared_plan is None):
        raise UsageError(
            "give either a plan or a --preset", "mpu run plan.yaml, or see mpu run --help"
        )
    if job.plan is not None:
        for name in for_preset:
            if getattr(job, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} has no effect without --preset", "put it into the plan")
        return read_plan(job.plan, known)
    assert job.prepared_plan is not None
    if job.model is None:
        raise UsageError("--preset needs --model", "give the model that is to forget")
    models = PresetModels(model=job.model, retain_model=job.retain_model, base=job.base)
    return preset_plan(job.prepared_plan, models, job.data or HUB[job.prepared_plan], known)


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
    done = f"{len(work.steps):,} steps, of which {len(work.steps) - len(make):,} are done"
    output.note(f"{done}; importing torch" if make and job.executor == "local" else done)
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
    from mpu_cli.experiment.executors.slurm import SlurmExecutor
    from mpu_cli.experiment.plan.schema import Resources

    if job.executor == "local":
        return LocalExecutor()
    needs = experiment.plan.resources
    return SlurmExecutor(store.root, needs, needs.get("default", Resources()))


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
        following = ("", f"tables  {job.out}", "next", f"  mpu report {job.out} --out report.html")
        output.result(data, summary, *following, brief=f"tables {job.out}")
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
