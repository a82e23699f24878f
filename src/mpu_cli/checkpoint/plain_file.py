"""Which files of a directory that came from someone else may be opened.

A model directory may be unpacked from anybody's archive, and what lies in it may be published: a
link in it could put the server's own secret into every copy. So a link is followed only where it
stays: in the directory itself, or, in the Hub's cache, from a snapshot into the blobs of the same
repository.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mpu_cli.errors import BadModelError

TEMPLATES = "additional_chat_templates"
"""The one folder inside a model directory that transformers reads."""
_LFS = b"version https://git-lfs.github.com/spec/"


def plain_file(path: Path) -> Path:
    """The file to open for a file of a model directory: itself, or what an allowed link leads to.

    Raises:
        BadModelError: a link that leaves the directory, or something that is no file (a pipe would
            block for ever).
    """
    real = _target(path)
    try:
        mode = real.stat(follow_symlinks=False).st_mode
    except OSError:
        return real  # whoever opens it says what is wrong
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a directory fails by itself
        raise BadModelError(
            f"{path}: is not a plain file", "remove it, or put the file itself there"
        )
    return real


def refuse_links_out(directory: Path) -> None:
    """Check every link of a model directory, whatever its name.

    Transformers reads more files than we do.

    Raises:
        BadModelError: one of them leaves the directory.
    """
    for folder in (directory, directory / TEMPLATES):
        try:
            entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink())
        except OSError:  # not there, or not readable: whoever opens a file in it says so
            continue
        for name in entries:
            _target(folder / name)


def is_lfs_pointer(head: bytes) -> bool:
    """Whether a file that begins so is what a clone without Git LFS leaves in the place of a large file."""
    return head.startswith(_LFS)


def lfs_pointer(path: Path) -> BadModelError:
    """The error for a Git LFS pointer, ready to be raised."""
    return BadModelError(
        f"{path}: is a Git LFS pointer, not the file itself",
        "fetch the files: git lfs install, then git lfs pull, in the clone; or download the model"
        " with hf download",
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
        f"{path}: is a link that leaves the model directory",
        "put the file itself there (cp -L), if you know what it is; links are followed only inside"
        " the Hub's own cache",
    )


def _in_own_blobs(snapshot: Path, real: Path) -> bool:
    """Whether a file is a blob of the repository whose snapshot (a resolved path) this directory is in the Hub's cache."""
    repository = snapshot.parent.parent
    return (
        snapshot.parent.name == "snapshots"
        and repository.name.startswith("models--")
        and real.parent == repository / "blobs"
    )
