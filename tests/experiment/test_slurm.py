"""Steps as jobs of a real Slurm: one node on this machine, from Debian's packages.

Skipped where they are not installed: apt-get install slurmctld slurmd slurm-client munge (as root).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_run_steps import CHAIN, Lines, step

from mpu_cli.demo.demonstration import assets
from mpu_cli.errors import BadInputError
from mpu_cli.experiment.executors.slurm import SlurmExecutor
from mpu_cli.experiment.plan.schema import Resources
from mpu_cli.experiment.run import RunOutcome, run_steps
from mpu_cli.experiment.schedule import Work
from mpu_cli.experiment.step import Graph, Step
from mpu_cli.experiment.store import Store

HERE = Path(__file__).parent
NEEDS = Resources(minutes=5, memory_gb=0.5)
missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if not shutil.which(name)]
needs_slurm = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"Slurm is not installed: {', '.join(missing)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="a Slurm of one node needs root"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[None]:
    """A running Slurm of one node."""
    place = tmp_path_factory.mktemp("slurm")
    script = [str(HERE / "one_node_slurm.sh"), str(place)]
    subprocess.run([*script, "start"], check=True, timeout=60)
    before = dict(os.environ)
    os.environ |= {"SLURM_CONF": str(place / "slurm.conf"), "PYTHONPATH": str(HERE)}
    yield
    os.environ.clear()
    os.environ.update(before)
    subprocess.run([*script, "stop"], check=True, timeout=60)


def run(directory: Path, *steps: Step, watcher: Lines | None = None) -> RunOutcome:
    """Run a graph of steps as jobs."""
    graph = Graph({one.name: one for one in steps})
    keys, store = graph.keys({}), Store(directory)
    store.open()
    executor = SlurmExecutor(store.root, {}, NEEDS)
    work = Work.of(graph, keys)
    return run_steps(work, keys, store, executor, watcher or Lines(), jobs=2)


def queued() -> list[str]:
    """Numbers of the jobs in the queue."""
    command = ["squeue", "--me", "--noheader", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def mark(*marks):
    """Several marks as one decorator."""

    def decorate(function):
        for one in marks:
            function = one(function)
        return function

    return decorate


@mark(*needs_slurm)
def test_steps_run_as_jobs(slurm, tmp_path):
    """In order, each in its directory; a failed one stops only what depends on it."""
    bad = step("bad", "fail")
    outcome = run(tmp_path, *CHAIN, bad)
    assert outcome.made == 4
    assert [(failure.name, failure.why) for failure in outcome.failures] == [("bad", "no luck")]
    key = Graph({one.name: one for one in CHAIN}).keys({})["d"]
    assert Store(tmp_path).answer(key)["text"] == "d(b(a())c(a()))"


@mark(*needs_slurm)
def test_a_preempted_job_is_queued_again(slurm, tmp_path):
    """Slurm's signal ends the attempt; the second one makes the step."""

    def preempt() -> None:
        while not (tmp_path / "first-attempt").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        (number,) = queued()
        subprocess.run(["scancel", "--signal=USR2", number], check=True)
        time.sleep(2)  # Slurm would wait for two minutes
        subprocess.run(["scontrol", "update", f"job={number}", "StartTime=now"], check=True)

    threading.Thread(target=preempt).start()
    began = time.monotonic()
    outcome = run(tmp_path, step("s", "sleep-once"))
    assert (outcome.made, outcome.failures) == (1, ())
    assert time.monotonic() - began < 55


@mark(*needs_slurm)
def test_a_killed_run_finds_its_jobs_again(slurm, tmp_path):
    """The job goes on without `mpu run`; the next one waits for it and submits nothing."""
    code = (
        "import sys; from pathlib import Path\n"
        "from test_slurm import run, step\n"
        "run(Path(sys.argv[1]), step('s', 'sleep-a-while'))\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    while not list(tmp_path.glob("running/*/stderr.log")):
        time.sleep(0.1)
    first.kill()
    first.wait()
    before = queued()
    assert len(before) == 1
    outcome = run(
        tmp_path,
        step("s", "sleep-a-while"),
        watcher=Lines(lambda step: before.append(*queued())),
    )
    assert outcome.made == 1
    assert before[0] == before[1]


@mark(*needs_slurm)
def test_a_plan_runs_as_jobs(slurm, tmp_path):
    """`mpu run --executor slurm`: the same numbers as with local processes."""
    plan = {
        "model": str(assets() / "model"),
        "data": {role: str(assets() / f"{role}.jsonl") for role in ("forget", "retain")},
        "seeds": [1],
        "unlearn": {"max_steps": 2, "learning_rate": 1e-4},
        "perturb": {"noise_relative_to": "weights"},
        "grid": {"method": ["GradDiff"], "kappa": [0.01]},
        "resources": {"default": {"minutes": 10, "memory_gb": 1}},
    }
    (tmp_path / "plan.yaml").write_text(json.dumps(plan))
    for executor in ("local", "slurm"):
        words = ["--out", executor, "--work", f"work-{executor}", "--executor", executor]
        subprocess.run(
            [sys.executable, "-m", "mpu_cli", "run", "plan.yaml", *words, "--jobs", "2"],
            check=True,
            cwd=tmp_path,
            timeout=500,
        )
    for name in ("runs.csv", "rounds.csv"):
        assert (tmp_path / "slurm" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_without_slurm_the_error_says_what_to_do(tmp_path, monkeypatch):
    """One line: no srun; without submitit, how to install it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInputError, match="no srun on this machine") as caught:
        SlurmExecutor(tmp_path, {}, NEEDS)
    assert "--executor local" in caught.value.hint
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(BadInputError, match="submitit is not installed") as caught:
        SlurmExecutor(tmp_path, {}, NEEDS)
    assert "mpu-cli[slurm]" in caught.value.hint


def test_submitit_closes_no_stream_of_this_process(tmp_path):
    """Its import would close the streams of other libraries' handlers: absl's may be our stderr."""
    pytest.importorskip("submitit")
    program = (
        "import io, pathlib, sys\n"
        "from mpu_cli.errors import BadInputError\n"
        "from mpu_cli.experiment.executors.slurm import SlurmExecutor\n"
        "before, sys.stderr = sys.stderr, io.StringIO()\n"
        "import absl.logging\n"
        "ours, sys.stderr = sys.stderr, before\n"
        "try: SlurmExecutor(pathlib.Path(sys.argv[1]), {}, None)\n"
        "except BadInputError as error: print(error.message)\n"
        "print('closed' if ours.closed else 'open')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        env=os.environ | {"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "--executor slurm: no srun on this machine\nopen\n"
