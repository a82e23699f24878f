"""Run the steps of an experiment: ready steps to an executor, finished ones into the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from mpu_cli.experiment.child import Task
from mpu_cli.experiment.schedule import Schedule, Work
from mpu_cli.experiment.step import Step
from mpu_cli.experiment.store import ANSWER, LOG, Finished, Store

Keep = Literal["results", "all"]
_POLL = 0.5
_FULL = 1 << 20
"""A disk with fewer bytes free counts as full."""


class Executor(Protocol):
    """Starts tasks and reports their ends."""

    def start(self, task: Task, step: Step) -> None:
        """Begin a task."""
        ...

    def wait(self, seconds: float) -> Mapping[str, int]:
        """The exit codes of the tasks that ended, by key; waits for one, `seconds` at most."""
        ...

    def stop(self) -> None:
        """End all tasks."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """A step that could not be made."""

    name: str
    why: str
    """One line."""
    log: Path


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """What came of it all."""

    made: int
    found: int
    """Steps that were done before."""
    failures: tuple[Failure, ...]
    not_run: tuple[str, ...]
    """Names of the steps that depend on a failed one."""


class Watcher(Protocol):
    """Is told what happens."""

    def started(self, step: Step) -> None:
        """A step began."""
        ...

    def done(self, step: Step, finished: Finished) -> None:
        """A step is done."""
        ...

    def failed(self, step: Step, failure: Failure) -> None:
        """A step failed."""
        ...

    def idle(self) -> None:
        """Called about twice a second."""
        ...


def run_steps(
    work: Work,
    keys: Mapping[str, str],
    store: Store,
    executor: Executor,
    watcher: Watcher,
    *,
    jobs: int,
    keep: Keep = "results",
) -> RunOutcome:
    """Make all steps that are not done.

    Args:
        work: the steps.
        keys: the key of every step by name.
        store: where finished steps are; this process holds its lock.
        executor: runs the steps.
        watcher: is told what happens.
        jobs: steps at a time.
        keep: "results" removes outputs that no step needs any more; "all" removes none.

    Raises:
        KeyboardInterrupt: after the running steps were stopped.
    """
    loop = _Loop(work, keys, store, executor, watcher, keep)
    try:
        while loop.start(jobs):
            loop.collect()
    finally:
        executor.stop()
    return loop.outcome()


class _Loop:
    """The state between two ends of steps."""

    def __init__(
        self,
        work: Work,
        keys: Mapping[str, str],
        store: Store,
        executor: Executor,
        watcher: Watcher,
        keep: Keep,
    ) -> None:
        self._work, self._keys, self._store = work, keys, store
        self._executor, self._watcher, self._keep = executor, watcher, keep
        store.remove_leftovers()
        make = work.to_make(store.finished)
        self._schedule = Schedule(work, make)
        self._found = work.steps.keys() - make
        self._running: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._made = 0
        self._reclaim(key for key in self._found if self._schedule.is_free(key))

    def start(self, jobs: int) -> bool:
        """Start steps until `jobs` are running; whether any is."""
        while len(self._running) < jobs:
            key = self._schedule.next()
            if key is None:
                break
            step = self._work.steps[key]
            self._store.refusal(key).unlink(missing_ok=True)
            self._executor.start(Task.of(step, self._keys, self._store.root), step)
            self._running.add(key)
            self._watcher.started(step)
        return bool(self._running)

    def collect(self) -> None:
        """Wait for steps to end, and note how they ended."""
        for key, code in self._executor.wait(_POLL).items():
            self._running.discard(key)
            step = self._work.steps[key]
            finished = self._store.finished(key) if code == 0 else None
            if finished is None or finished.is_reclaimed:
                running = self._store.running(key)
                refusal = self._store.refusal(key)
                why = _last_line(refusal) or _why(running, code)
                log = refusal if refusal.exists() else running / LOG
                self._failures[key] = Failure(step.name, why, log)
                self._watcher.failed(step, self._failures[key])
            else:
                self._made += 1
                self._watcher.done(step, finished)
                self._reclaim(self._schedule.done(key))
        self._watcher.idle()

    def outcome(self) -> RunOutcome:
        """What came of it all."""
        lost = self._schedule.depending_on(self._failures)
        return RunOutcome(
            made=self._made,
            found=len(self._found),
            failures=tuple(self._failures.values()),
            not_run=tuple(step.name for key, step in self._work.steps.items() if key in lost),
        )

    def _reclaim(self, keys: Iterable[str]) -> None:
        if self._keep == "results":
            for key in keys:
                self._store.reclaim(key)


def _why(directory: Path, code: int) -> str:
    if shutil.disk_usage(directory.parent).free < _FULL:
        return "the disk is full"
    if code == -9:
        return "it was killed (signal 9): perhaps the memory ran out; try fewer --jobs"
    if code < 0:
        return f"it was ended by signal {-code}"
    return _message(directory) or f"it ended with exit code {code}"


def _message(directory: Path) -> str | None:
    """The error that the command printed as JSON, or else the last line of its log."""
    try:
        error = json.loads((directory / ANSWER).read_bytes())["error"]["message"]
        return str(error)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return _last_line(directory / LOG)


def _last_line(log: Path) -> str | None:
    """The last error of a log, or else its last line."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return None
    errors = [line for line in lines if line.startswith("mpu: error: ")]
    last = errors[-1].removeprefix("mpu: error: ") if errors else lines[-1] if lines else ""
    return last.strip() or None
