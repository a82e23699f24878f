"""Which files of a directory mpu itself wrote: only these may be removed when a result is replaced.

A handoff and an update are listed by their manifest, and one copy of an update that is still to be
finished by its note. A model and a record of an evaluation have neither, so they get a list of
names beside them, hidden: names that other programs use too say nothing of who wrote a file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARKER = ".mpu-files"
"""The list beside a model or a record: a JSON list of paths relative to the directory."""
_NOTE = ".recipe.json"
_MANIFEST = "mpu.yaml"
_COPY = re.compile(rb'^- "files":\n((?:    .*\n)*)  "name": "([^"\n]+)"$', re.MULTILINE)
_FILE = re.compile(rb'^    "([^"\n]+)":$', re.MULTILINE)
"""Of a manifest in its canonical form; what is not canonical was not written by mpu, and lists nothing."""
_MAX_BYTES = 16 << 20


def write_marker(directory: Path) -> None:
    """List what lies in a directory that is about to be renamed into place."""
    names = sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()
    )
    (directory / MARKER).write_text(json.dumps(names) + "\n", encoding="utf-8")
    (directory / MARKER).chmod(0o644)


def written_by_mpu(directory: Path) -> frozenset[str]:
    """The files, by path relative to the directory, that its manifest, note or list names.

    Empty if it has none.
    """
    holders = [
        path for path in directory.glob("holder-*") if path.is_dir() and not path.is_symlink()
    ]
    found = _of_manifest(directory) | _of_list(directory, MARKER) | _of_list(directory, _NOTE)
    return found.union(
        *({f"{holder.name}/{name}" for name in _of_manifest(holder)} for holder in holders)
    )


def first_foreign(directory: Path, listed: Collection[str]) -> Path | None:
    """The first file, link or folder below a directory that is neither listed nor holds what is listed."""
    folders = {str(parent) for name in listed for parent in Path(name).parents}
    for root, inner, files in os.walk(directory):
        place = Path(root)
        for name in sorted(inner):
            path = place / name
            if path.is_symlink() or str(path.relative_to(directory)) not in folders:
                return path
        for name in sorted(files):
            if str((place / name).relative_to(directory)) not in listed:
                return place / name
    return None


def remove_listed(directory: Path, listed: Collection[str]) -> None:
    """Remove the listed files and then the directory.

    Whatever else has come into it meanwhile stays, and it with it.
    """
    for root, inner, files, handle in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in files:
            if str((Path(root) / name).relative_to(directory)) in listed:
                os.unlink(name, dir_fd=handle)
        for name in inner:
            with suppress(OSError):  # not empty, or a link
                os.rmdir(name, dir_fd=handle)
    with suppress(OSError):
        directory.rmdir()


def _of_manifest(directory: Path) -> frozenset[str]:
    data = _plain_bytes(directory / _MANIFEST)
    names = {
        f"{copy.decode(errors='replace')}/{name.decode(errors='replace')}"
        for block, copy in _COPY.findall(data)
        for name in _FILE.findall(block)
    }
    return frozenset(names | {_MANIFEST, f"{_MANIFEST}.sig"}) if names else frozenset()


def _of_list(directory: Path, name: str) -> frozenset[str]:
    try:
        content = json.loads(_plain_bytes(directory / name))
    except (ValueError, RecursionError):
        return frozenset()
    files = content.get("files") if isinstance(content, dict) else content
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        return frozenset()
    return frozenset({*files, name})


def _plain_bytes(path: Path) -> bytes:
    """A small file's content; nothing where there is no plain file."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
