"""The work directory of `mpu unlearn`: checkpoints, and the finished copies of a handoff.

It is a hidden sibling of OUT (or a directory below `--work DIR`), private (0700), and is removed
when the result is complete. A killed run resumes from it with the same bits. Nothing in it is sent
to the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.own_directory import open_own
from mpu_cli.checkpoint.staging import disk_errors, flush, flush_tree
from mpu_cli.checkpoint.writer import Files, write_new
from mpu_cli.client.settings import CheckpointSettings
from mpu_cli.errors import OutputError
from mpu_cli.training.checkpoints import (
    MARKER,
    CheckpointStore,
    SavePlan,
    make_private,
    remove_kept,
    verified,
)
from mpu_cli.training.run_identity import Identity, identity_digest

if TYPE_CHECKING:
    from mpu_cli.training.report import TrainingReport

SHORT = 60.0
"""Seconds of training that are not worth keeping when a run fails."""

_RESULT = ".result.json"


class WorkDirectory:
    """The work directory of one OUT."""

    def __init__(self, out: Path, keeping: CheckpointSettings) -> None:
        """The directory is made as soon as there is something to keep."""
        out = Path(os.path.abspath(out))  # noqa: PTH100 - links in the path are the user's, keep them
        self._keeping = keeping
        if keeping.directory is None:
            self.path = out.with_name(f".{out.name}.mpu-work")
        else:
            self.path = (
                keeping.directory
                / f"{out.name}-{hashlib.sha256(str(out).encode()).hexdigest()[:8]}"
            )

    @property
    def wants_checkpoints(self) -> bool:
        """Whether any checkpoint may be written."""
        return self._keeping.plan != SavePlan()

    def begin(self, names: Sequence[str], *, force: bool) -> None:
        """Look for what an earlier run left of these copies; `force` removes it.

        Raises:
            OutputError: there is something, and neither `--resume` nor `force` was given; or the
                directory belongs to another user.
        """
        for place in (self.path, *(self.path / name for name in names)):
            if os.path.lexists(place):
                os.close(open_own(place))
        left = [name for name in names if self._has(name)]
        if self._keeping.resume or not left:
            return
        if not force:
            raise OutputError(
                f"{self.path}: an interrupted run left its work there",
                "give --resume and the same options to continue it, or --force to start over",
            )
        self.discard(names)

    def store(self, name: str, identity: Identity) -> CheckpointStore | None:
        """The checkpoints of one copy; None if the user wants none."""
        if not self.wants_checkpoints:
            return None
        return CheckpointStore(self.path / name, {**identity, "the copy": name}, self._keeping.plan)

    def keep(
        self, name: str, directory: Path, identity: Identity, report: TrainingReport, files: Files
    ) -> None:
        """Keep a finished copy's files instead of its checkpoints until all copies are finished.

        Args:
            name: the copy's.
            directory: where its files are.
            identity: of the run.
            report: of the copy's training.
            files: digests and sizes of the files as they were written.
        """
        with disk_errors(self.path):
            make_private(self.path)
            place = self.path / name
            place.mkdir(mode=0o700, exist_ok=True)
            for file in files:
                (place / file).unlink(missing_ok=True)
                _link(directory / file, place / file)
            flush_tree(place)
            digests = {file: digest for file, (digest, _) in files.items()}
            run = {**identity, "the copy": name}
            note = {
                "identity": identity_digest(run),
                "run": run,
                "files": digests,
                "report": asdict(report),
            }
            partial = place / f".{MARKER}"
            partial.unlink(missing_ok=True)
            write_new(partial, json.dumps(note).encode(), 0o600)
            flush(partial)
            partial.rename(place / MARKER)
            flush(place)
            flush(self.path)
            for step in place.glob("step-*"):  # not before: a kill would lose the training
                remove_kept(step)

    def take(
        self, name: str, directory: Path, identity: Identity
    ) -> tuple[TrainingReport, Files] | None:
        """Put a copy that an earlier run finished into `directory`; None if there is none.

        Raises:
            CheckFailedError: the copy belongs to another run, or was altered.
        """
        place = self.path / name
        if not self._keeping.resume or not (place / MARKER).is_file():
            return None
        from mpu_cli.training.report import TrainingReport

        marker = verified(place, {**identity, "the copy": name}, "report")
        with disk_errors(directory):
            for file in marker["files"]:
                _link(place / file, directory / file)
        files = {
            file: (digest, (directory / file).stat().st_size)
            for file, digest in marker["files"].items()
        }
        return TrainingReport.of(marker["report"]), files

    def note_result(self, names: Sequence[str], result: Path) -> None:
        """Note, in what is kept of these copies, the directory that is about to become the result.

        A rename keeps its number. If the run dies between the rename and `discard`, the next one
        knows by it that the work is done: see `remove_finished`.
        """
        with disk_errors(self.path):
            for name in names:
                if (self.path / name).is_dir():
                    note = self.path / name / _RESULT
                    note.unlink(missing_ok=True)
                    write_new(note, json.dumps(_number(result)).encode(), 0o600)

    def remove_finished(self, target: Path) -> None:
        """Remove what a run left that had put its result at `target` before it died."""
        if not self.path.is_dir() or not target.is_dir():
            return
        os.close(open_own(self.path))
        for note in self.path.glob(f"*/{_RESULT}"):
            with suppress(OSError, ValueError):
                if json.loads(note.read_bytes()) == _number(target):
                    self.discard([note.parent.name])
        for place in [*self.path.iterdir()] if self.path.is_dir() else ():
            with suppress(OSError):
                place.rmdir()  # nothing is kept in it: its note was the last file
        self.discard([])

    def described(self, names: Sequence[str]) -> str:
        """Describe in words what is kept of these copies; empty if nothing is."""
        parts = []
        for name in names:
            steps = sorted(
                marker.parent.name for marker in (self.path / name).glob(f"step-*/{MARKER}")
            )
            if (self.path / name / MARKER).is_file():
                parts.append(f"{name} (finished)")
            elif steps:
                parts.append(f"step {int(steps[-1].partition('-')[2])} of {name}")
        return ", ".join(parts)

    def failed(self, names: Sequence[str], seconds: float) -> bool:
        """Whether to keep the work of a run that failed after `seconds`; if not, remove it."""
        checkpoints = [
            path for name in names for path in (self.path / name).glob(f"step-*/{MARKER}")
        ]
        if self._keeping.asked or checkpoints or seconds >= SHORT:
            return any(self._has(name) for name in names)
        self.discard(names)
        return False

    def discard(self, names: Sequence[str]) -> None:
        """Remove what is kept of these copies, and the directory if it is empty then."""
        for name in names:
            # The note that the work is done goes last: by it the next run goes on removing.
            remove_kept(self.path / name, last=_RESULT)
        with suppress(OSError):
            self.path.rmdir()
        if self._keeping.directory is not None:
            with suppress(OSError):
                self._keeping.directory.rmdir()

    def _has(self, name: str) -> bool:
        place = self.path / name
        return (place / MARKER).is_file() or any(place.glob(f"step-*/{MARKER}"))


def _number(directory: Path) -> list[int]:
    """What tells a directory from every other one on this machine, before and after a rename."""
    status = directory.stat()
    return [status.st_dev, status.st_ino, status.st_mtime_ns]


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
