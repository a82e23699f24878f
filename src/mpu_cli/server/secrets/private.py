"""A server's directory belongs to this user alone, as SSH requires of a private key.

Whoever reads it can remove the noise of every handoff of its lineage, and sign records.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from mpu_cli.checkpoint.own_directory import own_uid
from mpu_cli.errors import BadSecretError, MpuWarning
from mpu_cli.server.secrets.secret import SECRET_FILE

_OTHERS, _WRITE = 0o077, 0o022


def close_to_others(directory: Path) -> None:
    """Take a secret directory away from other users, with a warning if they could enter it.

    Links in it are left alone: a reader of the directory refuses them. A directory without a
    secret in it, such as a model given by mistake, keeps its modes.

    Raises:
        BadSecretError: another user owns a part of it, or its file system keeps no modes.
    """
    if not _may_be_secret(directory):
        return
    was: int | None = None
    for path in _parts(directory):
        try:
            about = path.stat(follow_symlinks=path == directory)
        except OSError:  # its reader says what is missing
            continue
        if stat.S_ISLNK(about.st_mode):
            continue
        _require_own(path, about.st_uid, directory)
        if about.st_mode & _OTHERS:
            _close(path, about.st_mode)
            if path == directory:
                was = stat.S_IMODE(about.st_mode)
    if was is not None:
        what = "read and change" if was & _WRITE else "read"
        warnings.warn(
            f"{directory}: had mode {was:04o}, so other users of this machine could {what} the"
            " secret; now only you can. Whoever has read it can remove the noise of every handoff"
            " of this lineage: if somebody may have, begin another one (mpu perturb --new-lineage)",
            MpuWarning,
            stacklevel=3,
        )


def _may_be_secret(directory: Path) -> bool:
    try:
        return any(entry.name == SECRET_FILE for entry in directory.iterdir())
    except OSError:  # one that we may not list
        return True


def _parts(directory: Path) -> Iterator[Path]:
    """The directory, its files and folders, and what lies in those."""
    yield directory
    folders = [directory]
    while folders:
        try:
            entries = sorted(os.scandir(folders.pop(0)), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            yield Path(entry.path)
            if entry.is_dir(follow_symlinks=False) and Path(entry.path).parent == directory:
                folders.append(Path(entry.path))


def _require_own(path: Path, owner: int, directory: Path) -> None:
    me = os.geteuid()
    if owner in {me, 0} or _is_mapped(owner, directory):
        return
    text = f"{path}: belongs to another user (number {owner}), who can read and change it"
    if me != 0:
        raise BadSecretError(
            text, f"if the secret is yours: sudo chown -R {me} {quote(str(directory))}"
        )
    # In a container, root often works on a directory of the user who started it.
    warnings.warn(text, MpuWarning, stacklevel=4)


def _is_mapped(owner: int, directory: Path) -> bool:
    """Whether a network file system gives this number to all that we create there."""
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        return own_uid(handle, owner) == owner
    finally:
        os.close(handle)


def _close(path: Path, mode: int) -> None:
    try:
        path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
        closed = not path.stat().st_mode & _OTHERS
    except OSError:
        closed = False
    if not closed:
        raise BadSecretError(
            f"{path}: has mode {stat.S_IMODE(mode):04o}, so other users of this machine can read"
            " the secret, and it cannot be changed here",
            "keep the secret on a file system with modes, in a directory of your own (chmod -R go="
            f" {quote(str(path))})",
        )
