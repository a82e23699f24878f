"""Open files of a directory that someone else made.

A model directory may come from anyone's archive, and its files may be published: a link in it
could put the server's secret into every copy. So mpu follows a link only inside the directory
itself, or in the Hub cache from a snapshot to the blobs of the same repository.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mpu_cli.errors import BadModelError

TEMPLATES = "additional_chat_templates"
"""The one folder inside a model directory that transformers reads."""
_LARGE = 4 << 30
"""Reading less takes seconds."""
_LFS = b"version https://git-lfs.github.com/spec/"


def plain_file(path: Path) -> Path:
    """Return the path to open for a file of a model directory, with allowed links resolved.

    Raises:
        BadModelError: a link to a file outside the directory, or not a regular file (a pipe would
            block forever).
    """
    real = _target(path)
    try:
        mode = real.stat(follow_symlinks=False).st_mode
    except OSError:
        return real  # the caller gets the error when it opens the file
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory fails by itself
        raise BadModelError(f"{path}: is not a regular file", "remove it, or copy the file there")
    return real


def refuse_links_out(directory: Path) -> None:
    """Check every link of a model directory, because transformers reads more files than mpu.

    Raises:
        BadModelError: a link to a file outside the directory.
    """
    for folder in (directory, directory / TEMPLATES):
        try:
            entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink())
        except OSError:  # absent or not readable: the caller gets the error when it opens a file
            continue
        for name in entries:
            _target(folder / name)


def is_hollow(status: os.stat_result) -> bool:
    """Whether a large file is almost all holes: quick to send, and hours to read."""
    return status.st_size > _LARGE and status.st_blocks * 512 < status.st_size // 100


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file's first bytes are those of a Git LFS pointer, left by a clone without LFS."""
    return head.startswith(_LFS)


def lfs_pointer(path: Path) -> BadModelError:
    """Return the error for a Git LFS pointer."""
    return BadModelError(
        f"{path}: is a Git LFS pointer, not the file itself",
        "run git lfs install and git lfs pull in the clone, or download the model with hf download",
    )


def _target(path: Path) -> Path:
    folder = path.parent
    if folder.name == TEMPLATES:
        _target(folder)
        folder = folder.parent
    if not path.is_symlink():
        return path
    directory, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if directory in real.parents or _in_own_blobs(directory, real):
        return real
    raise BadModelError(
        f"{path}: is a link to a file outside the model directory",
        "if you trust the file, copy it there (cp -L); mpu follows links only in the Hub cache",
    )


def _in_own_blobs(snapshot: Path, real: Path) -> bool:
    """Whether a file is a blob of the repository of this snapshot in the Hub cache."""
    repository = snapshot.parent.parent
    return (
        snapshot.parent.name == "snapshots"
        and repository.name.startswith("models--")
        and real.parent == repository / "blobs"
    )
