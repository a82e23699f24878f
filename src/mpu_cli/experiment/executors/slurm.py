"""Steps as jobs of Slurm, through submitit: one job a step.

The work directory must be on a file system that all nodes share. A preempted job is queued again:
a training goes on from its checkpoint, any other step is made anew.
"""

from __future__ import annotations

import logging.config
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.errors import BadInputError
from mpu_cli.experiment.child import Task
from mpu_cli.experiment.plan.schema import Resources
from mpu_cli.experiment.step import Step

_POLL = 3.0
"""Seconds between two questions to Slurm."""
_RESTARTS = 1000
"""How often a job that reached its time limit is queued again."""
_PATIENCE = 60
"""Seconds in which squeue must answer."""
_AGAIN = "run again when it does: jobs that were submitted go on, and their steps are found"
_GONE = 3
"""A job that this many answers do not list has ended; its result may reach us later than that."""


@dataclass(frozen=True, slots=True)
class StepJob:
    """What a job does: the task's command in a process of its own.

    submitit pickles it; on preemption it calls `checkpoint` and queues the result again.
    """

    task: Task

    def __call__(self) -> int:
        """The exit code of the task."""
        environment = {**os.environ, "MPU_STEP_THREADS": os.environ.get("SLURM_CPUS_PER_TASK", "1")}
        command = [sys.executable, "-m", *self.task.command()]
        return subprocess.run(
            command, env=environment, check=False, preexec_fn=_leave_preemption_to_the_job
        ).returncode

    def checkpoint(self) -> Any:
        """The same job once more: a finished step is found done, a training is resumed."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(StepJob(self.task))


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep submitit's import from configuring the logging of the whole process.

    It would close the streams of all handlers, and absl's (rouge-score imports it) is sys.stderr.
    """
    configure, logging.config.dictConfig = logging.config.dictConfig, lambda config: None
    try:
        yield
    finally:
        logging.config.dictConfig = configure


def _leave_preemption_to_the_job() -> None:
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm sends it to all processes of a job


class SlurmExecutor:
    """Submits tasks as jobs."""

    def __init__(self, work: Path, needs: Mapping[str, Resources], default: Resources) -> None:
        """`needs` has what a step needs, by its kind; `work` also keeps submitit's files.

        Raises:
            BadInputError: submitit or Slurm is not installed.
        """
        try:
            with _own_logging():
                import submitit
        except ImportError as error:
            raise BadInputError(
                "--executor slurm: submitit is not installed", "pip install 'mpu-cli[slurm]'"
            ) from error
        try:
            self._executor: Any = submitit.SlurmExecutor(
                folder=work / "slurm" / "%j", max_num_timeout=_RESTARTS
            )
        except RuntimeError as error:
            raise BadInputError(
                "--executor slurm: no srun on this machine",
                "run it where Slurm is installed, or with --executor local",
            ) from error
        self._needs, self._default = needs, default
        self._folder = work / "slurm" / "%j"
        self._jobs: dict[str, Any] = {}
        self._missing: dict[str, int] = {}
        self._asked = 0.0
        self._left = {name: number for number, name in _queue()}
        """Jobs of an earlier `mpu run` that are still queued or running, by name."""

    def start(self, task: Task, step: Step) -> None:
        """Submit a task."""
        name = f"mpu-{step.kind}-{task.key[:16]}"
        if name in self._left:
            import submitit

            self._jobs[task.key] = submitit.SlurmJob(self._folder, self._left[name])
            return
        needs = self._needs.get(step.kind, self._default)
        self._executor.update_parameters(
            job_name=name,
            time=needs.minutes,
            mem=f"{round(needs.memory_gb * 1024)}MB",
            cpus_per_task=needs.cpus,
            ntasks_per_node=1,
            nodes=1,
            **({"gpus_per_node": needs.gpus} if needs.gpus else {}),
        )
        self._jobs[task.key] = self._executor.submit(StepJob(task))

    def wait(self, seconds: float) -> Mapping[str, int]:
        """The exit codes of the jobs that ended, by key; waits for one, `seconds` at most."""
        last = time.monotonic() + seconds
        while self._jobs:
            self._ask()
            ended = {key: code for key in self._jobs if (code := self._code(key)) is not None}
            for key in ended:
                del self._jobs[key]
            if ended or time.monotonic() > last:
                return ended
            time.sleep(0.2)
        return {}

    def _ask(self) -> None:
        """Count how often Slurm no longer lists a job."""
        if time.monotonic() - self._asked < _POLL:
            return
        self._asked = time.monotonic()
        listed = {number for number, _ in _queue()}
        for key, job in self._jobs.items():
            gone = job.job_id not in listed
            self._missing[key] = self._missing.get(key, 0) + 1 if gone else 0

    def _code(self, key: str) -> int | None:
        """The exit code of a job; None while it runs."""
        job = self._jobs[key]
        if job.paths.result_pickle.exists():
            return 1 if job.exception() is not None else int(job.result())
        return -9 if self._missing.get(key, 0) >= _GONE else None

    def stop(self) -> None:
        """Cancel all jobs."""
        for job in self._jobs.values():
            job.cancel(check=False)
        self._jobs.clear()


def _queue() -> list[tuple[str, str]]:
    """Number and name of this user's jobs that are queued or running."""
    command = ["squeue", "--me", "--noheader", "--states=PENDING,RUNNING,SUSPENDED"]
    command += ["--format=%i %j"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise BadInputError(f"squeue does not answer within {_PATIENCE} seconds", _AGAIN) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise BadInputError(
            f"squeue does not answer: {last.removeprefix('squeue: ')[:200]}",
            _AGAIN,
        )
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return [(number, name) for number, _, name in lines]
