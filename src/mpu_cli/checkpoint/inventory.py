"""List the files of a directory that mpu wrote: only these may be removed by `--force`.

A manifest lists the files of a handoff or an update; a note lists those of an unfinished copy. A
model and an evaluation record have neither, so mpu writes a hidden list: a file name alone does
not show who wrote the file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from mpu_cli.checkpoint.modes import set_mode

MARKER = ".mpu-files"
"""The list beside a model or a record: a JSON list of paths relative to the directory."""
_NOTE = ".recipe.json"
_MANIFEST = "mpu.yaml"
_LISTS = {MARKER, _NOTE, _MANIFEST}
_COPY = re.compile(rb'^- "files":\n((?:    .*\n)*)  "name": "([^"\n]+)"$', re.MULTILINE)
_FILE = re.compile(rb'^    "([^"\n]+)":$', re.MULTILINE)
"""These patterns match a canonical manifest only; mpu writes no other form."""
_MAX_BYTES = 16 << 20


def write_marker(directory: Path) -> None:
    """Write the list of files into a directory that is about to be renamed to its final name."""
    names = sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if not path.is_dir()
    )
    (directory / MARKER).write_text(json.dumps(names) + "\n", encoding="utf-8")
    set_mode(directory / MARKER, 0o644)


def written_by_mpu(directory: Path) -> frozenset[str]:
    """The files, relative to the directory, that its manifest, note or list names; may be empty."""
    holders = [
        path for path in directory.glob("holder-*") if path.is_dir() and not path.is_symlink()
    ]
    files = _of_manifest(directory) | _of_list(directory, MARKER) | _of_list(directory, _NOTE)
    return files.union(
        *({f"{holder.name}/{name}" for name in _of_manifest(holder)} for holder in holders)
    )


def first_foreign(directory: Path, listed: Collection[str]) -> Path | None:
    """The first path below a directory that is not listed and holds no listed file."""
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
    """Remove the listed files, then the directory if nothing else is in it.

    The lists go last: after a kill the next run still knows whose the rest is.
    """
    for root, inner, files, handle in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in inner:
            with suppress(OSError):  # the folder is not empty, or is a link
                os.rmdir(name, dir_fd=handle)
        for name in sorted(files, key=lambda name: name in _LISTS):
            if str((Path(root) / name).relative_to(directory)) in listed:
                os.unlink(name, dir_fd=handle)
    with suppress(OSError):
        directory.rmdir()


def remove_empty(directory: Path) -> None:
    """Remove the folders of a directory that hold nothing, and itself if nothing is left."""
    for root, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):
            Path(root).rmdir()


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
    """The content of a small regular file, or nothing if there is no such file."""
    if path.is_symlink() or not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(_MAX_BYTES)
