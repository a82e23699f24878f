"""Steps in processes: results, failures, interruptions. The steps run a small program of the tests.

`tests/cli/test_run.py` runs whole plans of mpu commands.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from step_program import __file__ as program_file

from mpu_cli.experiment.child import Task
from mpu_cli.experiment.executors.local import LocalExecutor
from mpu_cli.experiment.run import RunOutcome, run_steps
from mpu_cli.experiment.schedule import Work
from mpu_cli.experiment.step import Graph, Result, Source, Step, Word, source_state
from mpu_cli.experiment.store import Store


class Lines:
    """A watcher that remembers what it was told."""

    def __init__(self, on_start: Callable[[Step], None] = lambda step: None) -> None:
        self.lines: list[str] = []
        self._on_start = on_start

    def started(self, step) -> None:
        """Call what the test wants."""
        self._on_start(step)

    def done(self, step, finished) -> None:
        """Remember it."""
        self.lines.append(f"done {step.name}")

    def failed(self, step, failure) -> None:
        """Remember it."""
        self.lines.append(f"failed {step.name}")

    def idle(self) -> None:
        """Nothing."""


def step(name: str, *words: Word, **more) -> Step:
    """A step of the tests' program."""
    return Step(
        name=name,
        kind="eval",
        party="observer",
        program="step_program",
        words=(name, *words),
        outputs=("out",),
        **more,
    )


def run(directory: Path, *steps: Step, watcher: Lines | None = None, **more) -> RunOutcome:
    """Run a graph of steps two at a time."""
    graph = Graph({one.name: one for one in steps})
    keys = graph.keys({})
    store = Store(directory)
    store.open()
    return run_steps(
        Work.of(graph, keys),
        keys,
        store,
        LocalExecutor(),
        watcher or Lines(),
        **{"jobs": 2, **more},
    )


def answer(directory: Path, *steps: Step, name: str) -> dict:
    """What a step printed."""
    return Store(directory).answer(Graph({one.name: one for one in steps}).keys({})[name])


CHAIN = (
    step("a"),
    step("b", Result("a", "out"), "wait"),
    step("c", Result("a", "out")),
    step("d", Result("b", "out"), Result("c", "out"), is_kept=True),
)


def test_steps_read_what_earlier_ones_wrote(tmp_path):
    """Each in its own directory, on one thread; only the kept output stays, and every answer."""
    outcome = run(tmp_path, *CHAIN)
    assert (outcome.made, outcome.found, outcome.failures) == (4, 0, ())
    assert answer(tmp_path, *CHAIN, name="d") == {"text": "d(b(a())c(a()))", "threads": "1"}
    assert len(list(tmp_path.glob("steps/*/out"))) == 1
    assert len(list(tmp_path.glob("steps/*/stdout.json"))) == 4
    assert {path.read_text()[:7] for path in tmp_path.glob("steps/*/stderr.log")} == {"note of"}
    assert not list((tmp_path / "running").iterdir())
    again = run(tmp_path, *CHAIN)
    assert (again.made, again.found) == (0, 4)


def test_keep_all_keeps_every_output(tmp_path):
    """For looking at them."""
    run(tmp_path, *CHAIN, keep="all")
    assert len(list(tmp_path.glob("steps/*/out"))) == 4


def test_another_plan_makes_a_removed_output_again(tmp_path):
    """Only what it reads, with the same bits."""
    run(tmp_path, *CHAIN)
    watcher = Lines()
    more = (*CHAIN, step("e", Result("b", "out")))
    outcome = run(tmp_path, *more, watcher=watcher)
    assert (outcome.made, outcome.found) == (3, 2)
    assert watcher.lines == ["done a", "done b", "done e"]


def test_other_bits_of_a_step_are_an_error_that_names_it(tmp_path):
    """A result that does not follow from the step's inputs."""
    run(tmp_path, *CHAIN)
    key = Graph({one.name: one for one in CHAIN}).keys({})["b"]
    path = tmp_path / "steps" / key / "step.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"files": {"out": "0" * 64}}))
    outcome = run(tmp_path, *CHAIN, step("e", Result("b", "out")))
    assert [failure.name for failure in outcome.failures] == ["b"]
    assert "out has other bits than when the step was made before" in outcome.failures[0].why


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("kill", "perhaps the memory ran out"),
        ("fail", "no luck"),
        ("crash", "RuntimeError: a bug"),
    ],
)
def test_a_failed_step_stops_only_what_depends_on_it(tmp_path, word, why):
    """It is named with its log; a second run begins with it."""
    bad = (step("a"), step("b", word, Result("a", "out")), step("c", Result("b", "out")))
    outcome = run(tmp_path, *bad, step("d", Result("a", "out")))
    (failure,) = outcome.failures
    assert failure.name == "b"
    assert why in failure.why
    assert failure.log.exists()
    assert (outcome.made, outcome.not_run) == (2, ("c",))
    again = run(tmp_path, *bad)
    assert (again.made, again.found) == (0, 1)


def test_a_command_without_its_output_is_named(tmp_path):
    """It ended with 0 and wrote nothing."""
    silent = Step(
        name="s", kind="eval", party="observer", program="this", words=(), outputs=("out",)
    )
    outcome = run(tmp_path, silent)
    assert "s: the command ended without writing out" in outcome.failures[0].why


def test_a_step_changes_its_own_copy(tmp_path):
    """Of what an earlier step left, as aggregate does with the secret."""
    first = step("a", is_kept=True)
    Store(tmp_path).open()
    with Store(tmp_path).attempt(Graph({"a": first}).keys({})["a"], keep=False) as attempt:
        (attempt.path / "secret").mkdir()
        (attempt.path / "secret" / "count").write_text("1")
        (attempt.path / "out").write_text("a")
        (attempt.path / "stdout.json").write_text("{}")
        attempt.finish("a", "eval", 1.0, ["out", "secret"])
    steps = (first, step("b", copied={"secret": Result("a", "secret")}))
    run(tmp_path, *steps)
    assert answer(tmp_path, *steps, name="b")["text"] == "b()1"
    assert (attempt.store.directory(attempt.key) / "secret" / "count").read_text() == "1"


def test_ctrl_c_ends_the_steps(tmp_path):
    """At once, and nothing half-made counts as done."""
    watcher = Lines(
        lambda step: (
            step.name == "s"
            and threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        )
    )
    began = time.monotonic()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, step("a"), step("s", "sleep"), watcher=watcher)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 30
    assert len(list(tmp_path.glob("steps/*"))) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_a_killed_parent_takes_its_steps_with_it(tmp_path):
    """After kill -9 no step goes on alone, and the next run makes it anew."""
    sleeper = step("s", "sleep")
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from mpu_cli.experiment.executors import local\n"
        "local.IMPORTED = ('mpu_cli.experiment.child',)\n"
        "from test_run_steps import run, step\n"
        "from pathlib import Path\n"
        "run(Path(sys.argv[1]), step('s', 'sleep'))\n"
    )
    paths = [str(Path(program_file).parent)]
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), *paths])
    key = Graph({"s": sleeper}).keys({})["s"]
    log = tmp_path / "running" / key / "stderr.log"

    def makers() -> list[str]:
        places = Path("/proc").glob("[0-9]*/cwd")
        return [str(p) for p in places if _target(p) == str(log.parent)]

    try:
        _until(lambda: log.exists() and makers())
    finally:
        parent.kill()
        parent.wait()
    _until(lambda: not makers())
    assert Store(tmp_path).finished(key) is None


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < last
        time.sleep(0.02)


def test_a_task_runs_the_same_as_a_command_of_its_own(tmp_path):
    """Slurm, make and Snakemake start it so."""
    graph = Graph({one.name: one for one in CHAIN[:2]})
    keys = graph.keys({})
    environment = {**os.environ, "PYTHONPATH": str(Path(program_file).parent)}
    for one in CHAIN[:2]:
        command = Task.of(one, keys, tmp_path).command()
        for _ in range(2):  # the second time it is done
            subprocess.run([sys.executable, "-m", *command], check=True, env=environment)
    assert answer(tmp_path, *CHAIN[:2], name="b")["text"] == "b(a())"
    outcome = run(tmp_path, *CHAIN)
    assert (outcome.made, outcome.found) == (2, 2)


def test_a_source_that_was_altered_fails_its_step(tmp_path):
    """Its result would be kept under the key of the file as it was."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("old")
    source = Source(str(rows), "digest", files=(source_state(rows),))
    one = step("a", source)
    rows.write_text("edited")
    outcome = run(tmp_path / "work", one)
    assert outcome.made == 0
    assert f"{rows}: was altered since" in outcome.failures[0].why
    fresh = step("a", Source(str(rows), "another", files=(source_state(rows),)))
    assert run(tmp_path / "work", fresh).made == 1


def test_a_source_that_is_altered_while_it_is_read(tmp_path):
    """Which bytes the command has read is not known."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("old")
    source = Source(str(rows), "digest", files=(source_state(rows),))
    edit = step("a", source, "edit", str(rows))
    outcome = run(tmp_path / "work", edit)
    assert outcome.made == 0 and "was altered since" in outcome.failures[0].why


def test_an_earlier_output_that_was_removed_is_named(tmp_path):
    """Rules of make see that the step is done, and not that its output is gone."""
    run(tmp_path, *CHAIN)
    more = (*CHAIN, step("e", Result("b", "out")))
    graph = Graph({one.name: one for one in more})
    task = Task.of(graph.steps["e"], graph.keys({}), tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", *task.command()], capture_output=True, text=True, check=False
    )
    log = (tmp_path / "running" / task.key / "stderr.log").read_text()
    assert done.returncode == 3 and "was removed to free the disk" in log and "--keep all" in log


def test_what_the_user_trusts_and_keeps_decides_no_step(tmp_path, monkeypatch):
    """Pinned keys, notes on lineages and a secret belong to other work."""
    for name in ("MPU_TRUST_FILE", "MPU_SECRET", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "mine"))
    run(tmp_path / "work", step("a"))
    (log,) = (tmp_path / "work").glob("steps/*/stderr.log")
    own = json.loads(log.read_text().splitlines()[1])
    assert own["MPU_SECRET"] is None and own["XDG_STATE_HOME"] == os.devnull
    assert not Path(own["MPU_TRUST_FILE"]).exists() and "mine" not in own["MPU_TRUST_FILE"]
