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
from mpu_cli.experiment.plan.document import Document, Keys
from mpu_cli.experiment.plan.read_splits import location
from mpu_cli.experiment.plan.schema import ExperimentPlan
from mpu_cli.experiment.step import Source, source_state

FileKind = Literal["model", "rows"]


class Files:
    """What the paths and Hub ids of a plan stand for."""

    def __init__(self, plan: ExperimentPlan) -> None:
        self._plan = plan
        self._found: dict[tuple[FileKind, str], Source] = {}

    def find(self, kind: FileKind, text: str, prefix: str = "") -> Source:
        """The file or model, with the digest of everything that a command reads of it.

        Raises:
            BadInputError: it is missing or no model; the message names the line of the plan.
        """
        if (kind, text) not in self._found:
            try:
                self._found[kind, text] = _model(text) if kind == "model" else _rows(text)
            except BadInputError as error:
                keys = _keys_of(self._plan.document, self._plan.directory, text)
                if keys is None:  # the plan gives it in another form
                    raise
                where = self._plan.document.place(keys)
                raise type(error)(f"{where}: {error.message}", error.hint) from error
        return replace(self._found[kind, text], prefix=prefix)


def _keys_of(document: Document, directory: Path, text: str) -> Keys | None:
    """Where a plan names a file or model that its reader resolved to `text`."""
    places: list[tuple[Keys, object]] = [((), document.content)]
    while places:
        keys, value = places.pop(0)
        if isinstance(value, dict):
            places += [((*keys, key), item) for key, item in value.items()]
        elif isinstance(value, list):
            places += [((*keys, index), item) for index, item in enumerate(value)]
        elif (
            isinstance(value, str) and value and location(document, keys, value, directory) == text
        ):
            return keys
    return None


def unopened(kind: FileKind, text: str, prefix: str = "") -> Source:
    """Stands for a file while a plan is checked before any file is opened."""
    return Source(text, f"{kind} {text}", prefix)


def _model(text: str) -> Source:
    checkpoint = open_checkpoint(locate(text).path)
    shards = sorted({info.file for info in checkpoint.tensors.values()})
    states = [source_state(path.absolute()) for path in shards]
    parts = {"weights": model_digest(checkpoint)}
    for path in sorted(checkpoint.path.rglob("*")):
        name = path.relative_to(checkpoint.path).as_posix()
        is_side = any(fnmatchcase(name, pattern) for pattern in (*ALLOWED, f"{TEMPLATES}/*.jinja"))
        if is_side and path.is_file():
            states.append(source_state(path.absolute()))
            parts[name] = file_digest(path)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    return Source(str(checkpoint.path.absolute()), digest, files=tuple(states))


def _rows(text: str) -> Source:
    path = find_data(text)
    if not path.exists():
        raise BadDataError(f"{text}: no such file", "correct the path in the plan's data")
    if not path.is_file():
        raise BadInputError(f"{text}: not a file", "give a file of rows")
    state = source_state(path.absolute())
    return Source(str(path.absolute()), file_digest(path) + path.suffix, files=(state,))
