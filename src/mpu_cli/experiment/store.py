"""The work directory of experiments: finished steps by key, and steps that are being made.

    WORK/steps/KEY/     a finished step: step.json, stdout.json, stderr.log and its outputs
    WORK/running/KEY/   a step that is being made, or that was interrupted or failed
    WORK/running/KEY.refused    why its process did not begin it
    WORK/lock           held by the one `mpu run` that works here (lock.py)
    WORK/done/          marks of an emitted Snakefile, which Snakemake may make first

A step is made in running/KEY and renamed to steps/KEY when it is done, so steps/KEY is complete.
Plans share the directory: equal steps have equal keys. Where the outputs of a finished step were
removed to free the disk, step.json says so and keeps their digests; stdout.json stays.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.lock_holder import lock_holder
from mpu_cli.errors import BadInputError, BusyError, CheckFailedError

STEP, ANSWER, LOG = "step.json", "stdout.json", "stderr.log"
MARKS = "done"
"""The directory of an emitted Snakefile's marks."""
_OWN = {"steps", "running", "lock", MARKS}
_DATED = "server/secret/"
"""Its records name the time and the directory of each handoff and model, on which no result
depends; the handoffs and models themselves are compared."""
_OTHER_PROCESS_ENDS = 30.0
"""Seconds to wait for a process of a killed run that still makes the same step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What step.json says."""

    name: str
    kind: str
    seconds: float
    """Wall-clock seconds."""
    nbytes: int
    """Bytes of the outputs."""
    files: Mapping[str, str]
    """SHA-256 of every file of the outputs, by path."""
    is_reclaimed: bool = False
    """The outputs were removed to free the disk."""


class Store:
    """The finished steps below one work directory."""

    def __init__(self, root: Path) -> None:
        """`root` is the work directory; it is made by `open`."""
        self.root = root.absolute()

    def open(self) -> None:
        """Make the directories.

        Raises:
            BadInputError: they cannot be made, or the work directory holds something else.
        """
        try:
            self._require_no_other_files()
            for name in ("steps", "running"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInputError(
                f"{self.root}: {str(error.strerror).lower()}", "choose another --work directory"
            ) from error

    def _require_no_other_files(self) -> None:
        # In this order: another process may be making the directory.
        names = {path.name for path in self.root.iterdir()} if self.root.is_dir() else set()
        if names - _OWN and not (self.root / "steps").is_dir():
            raise BadInputError(
                f"{self.root}: has files, but no steps of an earlier run",
                "choose another --work directory",
            )

    def directory(self, key: str) -> Path:
        """Where a finished step lies."""
        return self.root / "steps" / key

    def running(self, key: str) -> Path:
        """Where a step is made, and where its log stays if it fails."""
        return self.root / "running" / key

    def remove_leftovers(self) -> None:
        """Remove what a killed process left of steps that are done."""
        for path in (self.root / "running").iterdir():
            if path.suffix in {".old", ".refused"} and self.directory(path.stem).exists():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink(missing_ok=True)

    def refusal(self, key: str) -> Path:
        """Why a step was not begun; its own log belongs to the process that makes it."""
        return self.root / "running" / f"{key}.refused"

    def finished(self, key: str) -> Finished | None:
        """What is known of a step; None if it is not done.

        Raises:
            BadInputError: step.json is damaged.
        """
        return _read(self.directory(key) / STEP)

    def answer(self, key: str) -> dict[str, Any]:
        """The JSON object that the step's command printed.

        Raises:
            BadInputError: stdout.json is missing or damaged.
        """
        return _object(self.directory(key) / ANSWER)

    def all_finished(self) -> Iterator[Finished]:
        """Every finished step here, of any plan; damaged ones are left out."""
        for path in sorted((self.root / "steps").glob(f"*/{STEP}")):
            with suppress(BadInputError):
                if (done := _read(path)) is not None:
                    yield done

    def reclaim(self, key: str) -> int:
        """Remove the outputs of a finished step; return the bytes freed. The answer stays."""
        done = self.finished(key)
        if done is None:
            return 0
        directory = self.directory(key)
        if not done.is_reclaimed:  # first the note, so that a half-removed output is never used
            _write(directory / STEP, replace(done, is_reclaimed=True))
        _empty(directory, {STEP, ANSWER, LOG})
        return 0 if done.is_reclaimed else done.nbytes

    @contextmanager
    def attempt(self, key: str, *, keep: bool) -> Iterator[StepAttempt | None]:
        """The directory in which this process alone makes a step; None if another has made it.

        Args:
            key: of the step.
            keep: leave what an interrupted attempt left there.

        Raises:
            BusyError: another process is making it.
        """
        running = self.running(key)
        handle = self._locked(running, key)
        try:
            self.refusal(key).unlink(missing_ok=True)
            if not keep:
                _empty(running, set())
            done = self.finished(key)
            yield StepAttempt(self, key, done) if done is None or done.is_reclaimed else None
        finally:
            with suppress(OSError):  # gone, or not empty: else a step that was found done
                running.rmdir()
            os.close(handle)

    def _locked(self, running: Path, key: str) -> int:
        last = time.monotonic() + _OTHER_PROCESS_ENDS
        while True:
            running.mkdir(parents=True, exist_ok=True)
            handle = os.open(running, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(handle), running.stat()):
                    self._complete(running, key)
                    if running.exists():
                        return handle
            except FileNotFoundError:
                pass  # the other process has just finished the step
            except OSError as error:
                if error.errno not in {errno.EAGAIN, errno.EACCES} or time.monotonic() > last:
                    holder = lock_holder(handle)
                    os.close(handle)
                    raise BusyError(
                        f"{running}: another process is making this step ({holder})",
                        "wait for it, or end it (kill -9); then run again",
                    ) from error
                time.sleep(0.05)
            os.close(handle)

    def _complete(self, running: Path, key: str) -> None:
        """Rename a step that a killed process had finished but not renamed."""
        if (running / STEP).exists():
            self._place(running, key)

    def _place(self, running: Path, key: str) -> None:
        old = running.with_name(f"{key}.old")
        shutil.rmtree(old, ignore_errors=True)
        if self.directory(key).exists():
            self.directory(key).rename(old)
        running.rename(self.directory(key))
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class StepAttempt:
    """One step that this process is making."""

    store: Store
    key: str
    before: Finished | None
    """The same step as it was made before its outputs were removed."""

    @property
    def path(self) -> Path:
        """The directory in which the step's command runs."""
        return self.store.running(self.key)

    def finish(self, name: str, kind: str, seconds: float, outputs: Iterable[str]) -> None:
        """Note the digests of the outputs, then rename the directory into its final place.

        Raises:
            CheckFailedError: an output is missing, or the step was made before with other bits.
        """
        files = {}
        nbytes = 0
        for output in sorted(outputs):
            if not (self.path / output).exists():
                raise CheckFailedError(f"{name}: the command ended without writing {output}")
            for file in _files(self.path / output):
                nbytes += file.stat().st_size
                files[str(file.relative_to(self.path))] = file_digest(file)
        if self.before is not None:
            _require_same(name, self.before.files, files)
            seconds = self.before.seconds
        done = Finished(name=name, kind=kind, seconds=seconds, nbytes=nbytes, files=files)
        _write(self.path / STEP, done)
        self.store._place(self.path, self.key)


def _require_same(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    for file in sorted(before.keys() | now.keys()):
        if before.get(file) != now.get(file) and not file.startswith(_DATED):
            raise CheckFailedError(
                f"{name}: {file} has other bits than when the step was made before",
                "another processor or other libraries; use a new --work directory for this machine",
            )


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for root, folders, files in os.walk(path):
        folders.sort()
        yield from (Path(root, name) for name in sorted(files))


def _empty(directory: Path, kept: set[str]) -> None:
    for entry in directory.iterdir():
        if entry.name in kept:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _write(path: Path, content: Finished) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(asdict(content), file)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _read(path: Path) -> Finished | None:
    if not path.exists():
        return None
    try:
        return Finished(**_object(path))
    except TypeError as error:
        raise _damaged(path) from error


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> BadInputError:
    return BadInputError(
        f"{path}: missing or damaged", f"remove {path.parent}; the next mpu run makes it again"
    )
