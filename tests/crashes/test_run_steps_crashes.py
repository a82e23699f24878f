"""Steps of `mpu run` on a full disk, and beside a stopped process of a killed run."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dying import fork_apart

from mpu_cli.errors import BusyError
from mpu_cli.experiment import store as store_module
from mpu_cli.experiment.child import Task, perform
from mpu_cli.experiment.run import RunOutcome, run_steps
from mpu_cli.experiment.schedule import Work
from mpu_cli.experiment.step import Graph, Result, Step
from mpu_cli.experiment.store import Store


class Forked:
    """Runs each task at once, in a process forked from this one."""

    def __init__(self, scratch: Path, before: Callable[[Step], None]) -> None:
        self._scratch, self._before = scratch, before
        self._ended: dict[str, int] = {}

    def start(self, task: Task, step: Step) -> None:
        """Run a task to its end."""
        self._before(step)
        self._ended[task.key] = fork_apart(lambda: perform(task), self._scratch).code

    def wait(self, seconds: float) -> dict[str, int]:
        """What ended."""
        ended, self._ended = self._ended, {}
        return ended

    def stop(self) -> None:
        """Nothing runs."""


class Silent:
    """Is told everything, and says nothing."""

    def started(self, step) -> None:
        """A step began."""

    def done(self, step, finished) -> None:
        """A step is done."""

    def failed(self, step, failure) -> None:
        """A step failed."""

    def idle(self) -> None:
        """About twice a second."""


def chain(length: int) -> list[Step]:
    """Steps that each read the one before."""
    steps: list[Step] = []
    for number in range(1, length + 1):
        words = (f"s{number}", *([Result(f"step {number - 1}", "out")] if number > 1 else []))
        steps.append(
            Step(
                name=f"step {number}",
                kind="test",
                party="server",
                words=words,
                program="step_program",
                outputs=("out",),
            )
        )
    return steps


def run(
    root: Path, steps: list[Step], scratch: Path, before: Callable[[Step], None] = lambda step: None
) -> RunOutcome:
    """Run steps with keys of their own."""
    keys = {step.name: f"{number:016x}" for number, step in enumerate(steps, 1)}
    store = Store(root)
    store.open()
    work = Work.of(Graph({step.name: step for step in steps}), keys)
    return run_steps(work, keys, store, Forked(scratch, before), Silent(), jobs=1, keep="all")


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_in_step_seven(disk, tmp_path):
    """Six steps stay, the seventh says why, the eighth is not begun; then the run goes on."""
    steps, filler = chain(8), disk / "filler"

    def fill(step: Step) -> None:
        if step.name == "step 7":
            with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))

    outcome = run(disk / "work", steps, tmp_path / "printed", fill)
    assert (outcome.made, outcome.not_run) == (6, ("step 8",))
    assert [(one.name, one.why) for one in outcome.failures] == [("step 7", "the disk is full")]
    filler.unlink()
    outcome = run(disk / "work", steps, tmp_path / "printed")
    assert (outcome.made, outcome.found, outcome.failures) == (2, 6, ())
    last = disk / "work" / "steps" / f"{8:016x}" / "out"
    assert last.read_text() == "s8(s7(s6(s5(s4(s3(s2(s1())))))))"
    assert list((disk / "work" / "running").iterdir()) == []


def test_a_step_that_another_process_holds_is_named(tmp_path, monkeypatch):
    """A stopped process of a killed run: the failure names it, and its log is not an empty one."""
    monkeypatch.setattr(store_module, "_OTHER_PROCESS_ENDS", 0.1)
    store, key = Store(tmp_path / "work"), f"{1:016x}"
    store.open()
    store.running(key).mkdir()
    handle = os.open(store.running(key), os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    (failure,) = run(tmp_path / "work", chain(1), tmp_path / "printed").failures
    assert f"another process is making this step (process {os.getpid()})" in failure.why
    assert "end it (kill -9)" in failure.why
    assert failure.log.read_text().strip() == failure.why
    with pytest.raises(BusyError), store.attempt(key, keep=False):
        pass
    os.close(handle)
    outcome = run(tmp_path / "work", chain(1), tmp_path / "printed")
    assert (outcome.made, outcome.failures) == (1, ())
    assert list((tmp_path / "work" / "running").iterdir()) == []
