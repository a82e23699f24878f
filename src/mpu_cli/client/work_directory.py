"""Where an interrupted `mpu unlearn` leaves what it has done.

checkpoints, and the finished copies of a handoff.

A hidden sibling of OUT (or a directory below `--work DIR`), private (0700), removed when the result
is complete. It holds nothing of the update's that the server gets, and everything that a killed run
needs to go on with the same bits.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.own_directory import open_own
from mpu_cli.checkpoint.staging import disk_errors, flush, flush_tree
from mpu_cli.checkpoint.writer import Files, write_new
from mpu_cli.errors import OutputError
from mpu_cli.training.checkpoints import MARKER, CheckpointStore, SavePlan, make_private, verified
from mpu_cli.training.run_identity import Identity, identity_digest

if TYPE_CHECKING:
    from mpu_cli.training.report import TrainingReport

DEFAULT_SECONDS = 900.0
"""Between two checkpoints, where the user says nothing: what a killed run loses at most, beside the writing itself."""
SHORT = 60.0
"""Seconds of training that are not worth keeping when a run fails: it will hardly be gone on with as it was."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the user said about checkpoints."""

    resume: bool = False
    steps: int | None = None
    seconds: float = DEFAULT_SECONDS
    """0 = none by time."""
    directory: Path | None = None

    @property
    def asked(self) -> bool:
        """Whether the user wants whatever there is kept, however short the run was."""
        return self.resume or self.steps is not None or self.directory is not None

    @property
    def plan(self) -> SavePlan:
        """When checkpoints are due."""
        return SavePlan(self.steps, self.seconds or None)


class WorkDirectory:
    """The work directory of one OUT."""

    def __init__(self, out: Path, keeping: Keeping) -> None:
        """Nothing is made before there is something to keep."""
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
        """Whether any may be written."""
        return self._keeping.plan != SavePlan()

    def begin(self, names: Sequence[str], *, force: bool) -> None:
        """Look at what an earlier run left of these copies.

        Without `--resume` it is in the way, `force` removes it.

        Raises:
            OutputError: there is something, and neither was given; or something that is not this
                user's own is there.
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
                "give --resume and the same options to go on with it, or --force to begin anew",
            )
        self.discard(names)

    def store(self, name: str, identity: Identity) -> CheckpointStore | None:
        """The checkpoints of one copy; None if none are wanted."""
        if not self.wants_checkpoints:
            return None
        return CheckpointStore(self.path / name, {**identity, "the copy": name}, self._keeping.plan)

    def keep(
        self, name: str, directory: Path, identity: Identity, report: TrainingReport, files: Files
    ) -> None:
        """Keep a finished copy's files until all copies are finished.

        Its checkpoints are no longer needed.

        `files` is what they were when they were written.
        """
        with disk_errors(self.path):
            make_private(self.path)
            place = self.path / name
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(mode=0o700)
            for file in files:
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
            write_new(partial, json.dumps(note).encode(), 0o600)
            flush(partial)
            partial.rename(place / MARKER)
            flush(place)
            flush(self.path)

    def take(
        self, name: str, directory: Path, identity: Identity
    ) -> tuple[TrainingReport, Files] | None:
        """Put a copy that an earlier run finished into `directory`, its bytes checked.

        None if there is none.

        Raises:
            CheckFailedError: it was made by another recipe or from another handoff, or was altered.
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

    def described(self, names: Sequence[str]) -> str:
        """What is there of these copies, in words; empty if nothing is."""
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
        """A run fails after so many seconds: whether its work is kept; if not, it is removed."""
        checkpoints = [
            path for name in names for path in (self.path / name).glob(f"step-*/{MARKER}")
        ]
        if self._keeping.asked or checkpoints or seconds >= SHORT:
            return any(self._has(name) for name in names)
        self.discard(names)
        return False

    def discard(self, names: Sequence[str]) -> None:
        """Remove everything about these copies, and the directory if nothing else is in it."""
        for name in names:
            shutil.rmtree(self.path / name, ignore_errors=True)
        with suppress(OSError):
            self.path.rmdir()
        if self._keeping.directory is not None:
            with suppress(OSError):
                self._keeping.directory.rmdir()

    def _has(self, name: str) -> bool:
        place = self.path / name
        return (place / MARKER).is_file() or any(place.glob(f"step-*/{MARKER}"))


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
