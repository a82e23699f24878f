"""The target, work directory and signal handling of one `mpu unlearn` run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.checkpoint.staging import Staging
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.errors import StoppedError
from mpu_cli.modeling.processes import this_process
from mpu_cli.training.stop_signal import StopSignal


@dataclass(frozen=True, slots=True)
class Session:
    """The places and the signal of one command."""

    staging: Staging | None
    """The directory to fill; None in all processes but the first."""
    work: WorkDirectory
    stop: StopSignal
    names: Sequence[str] = ()
    """Of the copies that are trained."""

    def commit(self) -> None:
        """Put the result in place; whatever dies after that, the work counts as done."""
        assert self.staging is not None
        self.staging.flush()
        self.work.note_result(self.names, self.staging.path)
        self.staging.commit()


@contextmanager
def open_session(
    target: Path,
    names: Sequence[str],
    job: UnlearnJob,
    *,
    force: bool,
    work_for: Path | None = None,
    marked: bool = False,
) -> Iterator[Session]:
    """Open the target and the work directory, and catch signals until both are closed.

    Args:
        target: the directory to write.
        names: of the copies that are trained.
        job: what is trained.
        force: replace an existing target, and what an interrupted run left.
        work_for: the path that the work directory belongs to; None = `target`.
        marked: see `Staging`.

    Raises:
        OutputError: the target exists, or an interrupted run left its work.
        StoppedError: instead of KeyboardInterrupt; it says what was kept.
    """
    work = WorkDirectory(work_for or target, job.keeping)
    started = time.monotonic()
    first = this_process().is_first
    stop = StopSignal(job.note)
    with Staging(target, force=force, marked=marked) if first else nullcontext() as staging, stop:
        if staging is not None:
            work.begin(names, force=force)
        try:
            yield Session(staging, work, stop, names)
        except KeyboardInterrupt as interrupt:
            raise _stopped(work, names if first else [], job.resume_with) from interrupt
        except BaseException:
            if staging is not None and work.failed(names, time.monotonic() - started):
                job.note(f"the work so far is kept in {work.path}; resume with: {job.resume_with}")
            raise
        if staging is not None:
            work.discard(names)


def remove_finished(target: Path, job: UnlearnJob, work_for: Path | None = None) -> None:
    """Remove what a run left that died after it had put its result in place."""
    if this_process().is_first:
        WorkDirectory(work_for or target, job.keeping).remove_finished(target)


def _stopped(work: WorkDirectory, names: Sequence[str], resume_with: str) -> StoppedError:
    done = work.described(names)
    if done:
        return StoppedError(f"interrupted; {work.path} keeps {done}", f"resume with: {resume_with}")
    work.discard(names)
    why = (
        "no checkpoint was complete yet"
        if work.wants_checkpoints
        else "--save-seconds 0 asks for no checkpoints"
    )
    return StoppedError(f"interrupted; nothing was kept: {why}", "run the same command again")
