"""The steps of an experiment in other engines: make, and Snakemake where it is installed.

`make snakemake` installs it into a virtual environment of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from plans import built, small, written

from mpu_cli.errors import OutputError, UsageError
from mpu_cli.experiment.child import Task
from mpu_cli.experiment.emit.make import makefile
from mpu_cli.experiment.emit.snakemake import snakefile
from mpu_cli.experiment.emit.write import write_rules
from mpu_cli.experiment.provenance import versions
from mpu_cli.experiment.runs import Experiment
from mpu_cli.experiment.step import Graph, Result, Step
from mpu_cli.experiment.write_results import require_results_directory

ROOT = Path(__file__).parents[2]
SNAKEMAKE = next(
    (
        str(path)
        for path in (ROOT / ".snakemake-venv" / "bin" / "snakemake", shutil.which("snakemake"))
        if path and Path(path).exists()
    ),
    None,
)
TABLES = ("echo", "all", "done")
AWKWARD = "a 'b' $(HOME) {c} # \"d\" % \\ é"
"""A name with what make, a shell and Snakemake could read as something else."""


def step(name: str, *words, **more) -> Step:
    """A step of the tests' small program."""
    return Step(
        name=name,
        kind="eval",
        party="observer",
        program="step_program",
        words=(name, *words),
        outputs=("out",),
        **more,
    )


def chain(directory: Path) -> Experiment:
    """Four steps: one, two that need it, and one that needs both."""
    steps = [
        step("first"),
        step(AWKWARD, Result("first", "out")),
        step("third", Result("first", "out"), resume=("--resume",)),
        step("last", Result("third", "out"), Result(AWKWARD, "out"), "$HOME", "{work}"),
    ]
    plan = built(directory, small()).plan
    return Experiment(plan, Graph({one.name: one for one in steps}), ())


def results(work: Path) -> dict[str, bytes]:
    """The bytes that the steps wrote, by key."""
    return {
        path.name: (path / "out").read_bytes() + (path / "stdout.json").read_bytes()
        for path in (work / "steps").iterdir()
    }


def environment() -> dict[str, str]:
    """Where the steps' processes find the tests' program."""
    here = str(Path(__file__).parent)
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}  # of the make that runs the tests
    kept = {name: value for name, value in os.environ.items() if name not in outer}
    return {**kept, "PYTHONPATH": os.pathsep.join([here, *sys.path])}


def engine(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Run an engine in a directory."""
    return subprocess.run(
        command, cwd=directory, env=environment(), capture_output=True, text=True, check=False
    )


@pytest.fixture
def reference(tmp_path) -> tuple[Experiment, dict[str, str], dict[str, bytes]]:
    """The chain, its keys, and what its steps write when they are run one by one."""
    experiment = chain(tmp_path)
    keys = experiment.graph.keys({})
    work = tmp_path / "reference"
    for one in experiment.graph.steps.values():
        command = [sys.executable, "-m", *Task.of(one, keys, work).command()]
        assert engine(command, tmp_path).returncode == 0
    return experiment, keys, results(work)


def test_make_runs_every_step_once(reference, tmp_path):
    """In parallel, with the same bytes; a second call only writes the tables."""
    experiment, keys, expected = reference
    file, work = tmp_path / "Makefile", tmp_path / "work"
    file.write_text(makefile(experiment, keys, work, TABLES), encoding="utf-8")
    done = engine(["make", "-j2"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(work) == expected
    assert done.stdout.splitlines()[0] == "first"
    assert AWKWARD in done.stdout.splitlines()
    again = engine(["make", "-j2"], tmp_path)
    assert again.stdout.splitlines() == ["echo all done", "all done"]


def test_make_goes_on_after_a_failed_step(tmp_path):
    """What does not depend on it is run with -k; when its cause is gone, only the rest is made."""
    experiment = chain(tmp_path)
    broken = step("second", Result("first", "out"), "fail")
    steps = dict(experiment.graph.steps) | {"second": broken}
    experiment = Experiment(experiment.plan, Graph(steps), ())
    keys, work = experiment.graph.keys({}), tmp_path / "work"
    text = makefile(experiment, keys, work, TABLES)
    (tmp_path / "Makefile").write_text(text, encoding="utf-8")
    done = engine(["make", "-k"], tmp_path)
    assert done.returncode == 2
    assert "all done" not in done.stdout
    assert results(work).keys() == {key for name, key in keys.items() if name != "second"}
    mended = text.replace(" fail", " good")
    (tmp_path / "Makefile").write_text(mended, encoding="utf-8")
    assert engine(["make"], tmp_path).stdout.splitlines()[0] == "second"
    assert results(work).keys() == set(keys.values())


def test_what_make_cannot_read_is_refused(tmp_path):
    """A work directory with a space, and an option with a line break."""
    experiment = chain(tmp_path)
    keys = experiment.graph.keys({})
    with pytest.raises(UsageError, match="make cannot read"):
        makefile(experiment, keys, tmp_path / "a b", TABLES)
    steps = {"one": step("one", "a\nb")}
    experiment = Experiment(experiment.plan, Graph(steps), ())
    with pytest.raises(UsageError, match="line break"):
        makefile(experiment, experiment.graph.keys({}), tmp_path / "w", TABLES)


@pytest.mark.parametrize("engine", ["make", "snakemake"])
def test_tables_go_beside_the_rules(tmp_path, engine):
    """But not beside another's rules and plan."""
    experiment = chain(tmp_path)
    keys, out = experiment.graph.keys({}), tmp_path / "out"
    file = write_rules(engine, out, experiment, keys, tmp_path / "w", TABLES)
    require_results_directory(out)
    file.write_text("all:\n")
    with pytest.raises(OutputError, match="has files"):
        require_results_directory(out)


def test_a_snakefile_has_the_resources_of_each_kind(tmp_path):
    """What a step needs of a cluster; kinds without an entry get the default."""
    resources = {"unlearn": {"minutes": 90, "gpus": 1}, "default": {"memory_gb": 4, "cpus": 2}}
    experiment = built(tmp_path, small(resources=resources))
    text = snakefile(experiment, experiment.graph.keys({}), tmp_path / "w", TABLES)
    rules = text.split("\nrule ")
    unlearn = next(rule for rule in rules if rule.startswith("unlearn_"))
    assert "runtime=90," in unlearn and "gpu=1," in unlearn
    perturb = next(rule for rule in rules if rule.startswith("perturb_"))
    assert "threads: 2" in perturb and "mem_mb=4000," in perturb


@pytest.mark.slow
@pytest.mark.skipif(SNAKEMAKE is None, reason="Snakemake is not installed: make snakemake")
def test_snakemake_runs_every_step_once(reference, tmp_path):
    """As make: in parallel, with the same bytes; a second call makes no step."""
    experiment, keys, expected = reference
    work = tmp_path / "work"
    text = snakefile(experiment, keys, work, TABLES)
    (tmp_path / "Snakefile").write_text(text, encoding="utf-8")
    command = [str(SNAKEMAKE), "--cores", "2"]
    done = engine(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert results(work) == expected
    assert "rule eval" not in engine(command, tmp_path).stderr


@pytest.mark.slow
def test_make_gives_the_bits_of_mpu_run(tmp_path):
    """A whole plan of mpu commands, by both engines."""
    plan = written(tmp_path, small(unlearn={"learning_rate": 1e-4, "max_steps": 1}))
    experiment = built(tmp_path, plan.read_text(encoding="utf-8"))
    run = [sys.executable, "-m", "mpu_cli", "run", str(plan)]
    tables = [*run, "--work", str(tmp_path / "made"), "--out", str(tmp_path / "made-tables")]
    text = makefile(experiment, experiment.graph.keys(versions()), tmp_path / "made", tables)
    (tmp_path / "Makefile").write_text(text, encoding="utf-8")
    assert engine(["make", "-j2"], tmp_path).returncode == 0
    own = [*run, "--work", str(tmp_path / "run"), "--out", str(tmp_path / "run-tables")]
    assert engine(own, tmp_path).returncode == 0
    made, ran = (
        (tmp_path / name / "runs.csv").read_bytes() for name in ("made-tables", "run-tables")
    )
    assert made == ran
