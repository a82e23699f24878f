"""Read the data splits of a plan: which files the client trains on and which measure the models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.locate import is_hub_id
from mpu_cli.experiment.plan.document import Document, Keys
from mpu_cli.experiment.plan.schema import Split

TRAIN = ("forget", "retain", "cover", "refusals", "unanswerable")
MEASURED = ("forget", "retain", "holdout", "utility", "knowledge", "few_shot", "verbatim")
_REPEATED = ("utility", "knowledge", "few_shot")
_ROLES = (*dict.fromkeys((*TRAIN, *MEASURED)), "eval", "retain_model")


def read_splits(
    document: Document, value: Any, directory: Path, retain_model: str | None
) -> dict[str, Split]:
    """The named splits; a single one may be written directly, and its name is "data".

    Raises:
        UsageError: a role is unknown, or a split has no rows to forget.
    """
    content = document.map(("data",), value)
    if any(not isinstance(item, dict) for item in content.values()):
        return {"data": _split(document, ("data",), "data", content, directory, retain_model)}
    splits = {
        name: _split(document, ("data", name), name, split, directory, retain_model)
        for name, split in content.items()
    }
    if not splits:
        raise document.wrong(("data",), "no rows", "give data: {forget: FILE, retain: FILE}")
    return splits


def location(document: Document, keys: Keys, value: Any, directory: Path) -> str:
    """A path made absolute, or a Hub id or hf:// location as it is.

    Raises:
        UsageError: it is no text.
    """
    if not isinstance(value, str) or not value:
        raise document.wrong(keys, "expected a path or a Hub id")
    path = directory / value
    if value.startswith("hf:") or (is_hub_id(value) and not path.exists()):
        return value
    return os.path.normpath(path)


def _split(
    document: Document,
    keys: Keys,
    name: str,
    value: Any,
    directory: Path,
    retain_model: str | None,
) -> Split:
    content = document.known(keys, value, _ROLES)
    if content.get("forget") is None:
        raise document.wrong(keys, "no rows to forget", "give forget: FILE")
    train = {
        role: location(document, (*keys, role), content[role], directory)
        for role in TRAIN
        if content.get(role) is not None
    }
    here = (*keys, "eval")
    instead = document.known(here, content.get("eval") or {}, MEASURED)
    measured = {}
    for role in MEASURED:
        where, source = (here, instead) if role in instead else (keys, content)
        if source.get(role) is not None:
            files = _files(document, (*where, role), role, source[role], directory)
            measured[role] = files
    own = content.get("retain_model")
    return Split(
        name=name,
        train=train,
        measured=measured,
        retain_model=retain_model
        if own is None
        else location(document, (*keys, "retain_model"), own, directory),
        keys=keys,
    )


def _files(
    document: Document, keys: Keys, role: str, value: Any, directory: Path
) -> tuple[str, ...]:
    """One file, or for repeated roles several: a list, or a map of names to files."""
    if role not in _REPEATED:
        return (location(document, keys, value, directory),)
    if isinstance(value, dict):
        for name in value:
            if not name.isidentifier():
                raise document.wrong((*keys, name), "expected a name of letters, digits and _")
        return tuple(
            f"{name}={location(document, (*keys, name), file, directory)}"
            for name, file in value.items()
        )
    files = value if isinstance(value, list) else [value]
    return tuple(
        location(document, (*keys, position), file, directory)
        for position, file in enumerate(files)
    )
