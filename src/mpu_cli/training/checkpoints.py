"""Checkpoints of a run that may be killed at any moment, even while it writes one.

A checkpoint is a directory `step-N` in a private directory (0700, because the weights show what was
forgotten). It counts only with its marker `complete.json`, which lists the other files' digests and
is renamed into place after everything else has reached the disk. Only then is the previous
checkpoint removed.

The marker also holds the run's identity. A checkpoint of another recipe, handoff, copy or number of
processes is refused: continuing from it would give an update that no uninterrupted run gives.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.staging import disk_errors, flush, full_words
from mpu_cli.errors import CheckFailedError, OutputError
from mpu_cli.training.run_identity import Identity, difference, identity_digest
from mpu_cli.training.system_errors import system_errors

MARKER = "complete.json"
WEIGHTS = "weights.safetensors"
STATE = "state.pt"
TRAINER_STATE = "trainer_state.json"
"""Trainer reads step and epoch from a file of this name."""
_ANEW = "give --resume the options of the interrupted run, or --force instead to start over"


@dataclass(frozen=True, slots=True)
class SavePlan:
    """When to write a checkpoint: every `steps` steps, and `seconds` after the last one."""

    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A complete checkpoint whose files match their digests."""

    path: Path
    step: int

    def weights(self) -> dict[str, Any]:
        """The trained tensors by their names in memory, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.path / WEIGHTS)

    def state(self) -> dict[str, Any]:
        """The rest of what `save` was given, on the CPU; nothing in the file can run."""
        import torch

        content: dict[str, Any] = torch.load(
            self.path / STATE, map_location="cpu", weights_only=True
        )
        return content


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, directory: Path, identity: Identity, plan: SavePlan) -> None:
        """The first `save` makes the directory.

        Args:
            directory: only this run's; made with mode 0700.
            identity: plain values that must be the same for a checkpoint to be continued.
            plan: see `SavePlan`.
        """
        self.directory, self._plan = directory, plan
        self.identity = identity
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether to write a checkpoint now, after step `step`."""
        plan = self._plan
        by_time = plan.seconds is not None and time.monotonic() - self._last >= plan.seconds
        return by_time or (plan.steps is not None and step % plan.steps == 0)

    def save(
        self, step: int, weights: Mapping[str, Any], state: Mapping[str, Any], trainer_state: str
    ) -> None:
        """Write the checkpoint of step `step`, then remove the older ones.

        Args:
            step: optimizer steps done.
            weights: the trained tensors by name.
            state: tensors, numbers, strings, None, and dicts, lists and tuples of them.
            trainer_state: Trainer's state as JSON.

        Raises:
            OutputError: the disk is full, or the directory cannot be written; the previous
                checkpoint is still there.
        """
        path = self.directory / f"step-{step:08d}"
        with disk_errors(self.directory):
            make_private(self.directory)
            remove_kept(path)
            try:
                with system_errors():
                    self._write(path, step, weights, state, trainer_state)
            except OSError as error:
                # Half a checkpoint is useless, and takes the space that the next attempt needs.
                shutil.rmtree(path, ignore_errors=True)
                if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise
                raise OutputError(
                    f"{self.directory}: {full_words(error.errno)}, the checkpoint of step {step}"
                    " was not kept",
                    "free some space, or give --work a larger disk; --resume continues from the"
                    " previous checkpoint, if there is one",
                ) from error
            for other in self._steps():
                if other != path:
                    remove_kept(other)
        self._last = time.monotonic()

    def latest(self) -> Saved | None:
        """The newest complete checkpoint, verified; None if there is none.

        Raises:
            CheckFailedError: it belongs to another run, or one of its files was altered.
        """
        complete = [path for path in self._steps() if (path / MARKER).is_file()]
        if not complete:
            return None
        path = complete[-1]
        return Saved(
            path,
            int(verified(path, self.identity, "step", {WEIGHTS, STATE, TRAINER_STATE})["step"]),
        )

    def _write(
        self,
        path: Path,
        step: int,
        weights: Mapping[str, Any],
        state: Mapping[str, Any],
        trainer_state: str,
    ) -> None:
        import torch
        from safetensors.torch import save_file

        path.mkdir(mode=0o700)
        save_file(
            {name: tensor.detach().contiguous() for name, tensor in weights.items()}, path / WEIGHTS
        )
        with open(path / STATE, "xb", opener=_private) as file:
            torch.save(dict(state), file)
        with open(path / TRAINER_STATE, "x", encoding="utf-8", opener=_private) as file:
            file.write(trainer_state)
        self._complete(path, step)

    def _complete(self, path: Path, step: int) -> None:
        names = (WEIGHTS, STATE, TRAINER_STATE)
        for name in names:
            flush(path / name)
        files = {name: file_digest(path / name) for name in names}
        marker = {
            "format": 1,
            "step": step,
            "identity": identity_digest(self.identity),
            "run": self.identity,
            "files": files,
        }
        partial = path / f".{MARKER}"
        with open(partial, "x", encoding="utf-8", opener=_private) as file:
            file.write(json.dumps(marker, sort_keys=True))
        flush(partial)
        flush(path)
        partial.rename(path / MARKER)
        flush(path)
        flush(self.directory)

    def _steps(self) -> list[Path]:
        if not self.directory.is_dir():
            return []
        return sorted(
            path for path in self.directory.iterdir() if re.fullmatch(r"step-\d{8,}", path.name)
        )


def verified(
    path: Path, identity: Identity, field: str, names: AbstractSet[str] = frozenset()
) -> dict[str, Any]:
    """Read the marker in `path`; verify its identity and every listed file, `names` at least.

    Raises:
        CheckFailedError: the marker cannot be read, belongs to another run, or a file was altered.
    """
    try:
        marker: dict[str, Any] = json.loads((path / MARKER).read_text(encoding="utf-8"))
        _, digest, files = marker[field], marker["identity"], dict(marker["files"])
        if identity_digest(marker["run"]) != digest:
            raise ValueError("the run and its digest differ")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckFailedError(
            f"{path / MARKER}: cannot be read", "give --force instead of --resume to start over"
        ) from error
    if digest != identity_digest(identity):
        raise CheckFailedError(
            f"{path}: belongs to another run: {difference(marker.get('run'), identity)}", _ANEW
        )
    for name in sorted({*files, *names}):
        if not (path / name).is_file() or file_digest(path / name) != files.get(name):
            raise CheckFailedError(
                f"{path / name}: differs from what was written there",
                "the disk lost or changed it; give --force to start over",
            )
    return marker


def remove_kept(path: Path, last: str = "") -> None:
    """Remove a directory that holds kept work, every marker first and the file `last` last.

    A kill in between then leaves nothing that counts as complete and has lost files.
    """
    for marker in [*path.rglob(MARKER)]:
        with suppress(OSError):
            marker.unlink()
    for entry in [*path.iterdir()] if last and path.is_dir() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != last:
            with suppress(OSError):
                entry.unlink()
    shutil.rmtree(path, ignore_errors=True)


def make_private(path: Path) -> None:
    """Make a directory and its missing parents, for the owner only."""
    for directory in reversed((path, *path.parents)):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
