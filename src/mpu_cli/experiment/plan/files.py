"""Find the models and rows that a plan names, each once, with their digests."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from mpu_cli.checkpoint.digest import file_digest, model_digest
from mpu_cli.checkpoint.locate import locate
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.side_files import ALLOWED
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError, BadInputError
from mpu_cli.experiment.step import Source

FileKind = Literal["model", "rows"]


class Files:
    """What the user's paths and Hub ids stand for."""

    def __init__(self) -> None:
        self._found: dict[tuple[FileKind, str], Source] = {}

    def find(self, kind: FileKind, text: str, prefix: str = "") -> Source:
        """The file or model, with the digest of everything that a command reads of it.

        Raises:
            BadInputError: it is missing or no model.
        """
        if (kind, text) not in self._found:
            self._found[kind, text] = _model(text) if kind == "model" else _rows(text)
        return replace(self._found[kind, text], prefix=prefix)


def unopened(kind: FileKind, text: str, prefix: str = "") -> Source:
    """Stands for a file while a plan is checked before any file is opened."""
    return Source(text, f"{kind} {text}", prefix)


def _model(text: str) -> Source:
    checkpoint = open_checkpoint(locate(text).path)
    parts = {"weights": model_digest(checkpoint)}
    for path in sorted(checkpoint.path.rglob("*")):
        name = path.relative_to(checkpoint.path).as_posix()
        is_side = any(fnmatchcase(name, pattern) for pattern in (*ALLOWED, f"{TEMPLATES}/*.jinja"))
        if is_side and path.is_file():
            parts[name] = file_digest(path)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Source(str(checkpoint.path.absolute()), digest)


def _rows(text: str) -> Source:
    path = find_data(text)
    if not path.exists():
        raise BadDataError(f"{text}: no such file", "correct the path in the plan's data")
    if not path.is_file():
        raise BadInputError(f"{text}: not a file", "give a file of rows")
    return Source(str(Path(path).absolute()), file_digest(path))
