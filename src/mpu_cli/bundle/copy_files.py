"""Which files the copies of a bundle list: nothing that no reader opens, nothing that is missing.

The manifest alone decides it, before a file is opened. A file that is listed but unused would be
sent, signed and stored with the rest, and another program might load it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mpu_cli.bundle.adapter import ADAPTER_FILES
from mpu_cli.bundle.manifest import (
    FileEntry,
    HandoffManifest,
    PublishedCopy,
    UpdateCopy,
    UpdateManifest,
)
from mpu_cli.bundle.mask import MASKED
from mpu_cli.checkpoint.side_files import is_allowed
from mpu_cli.checkpoint.writer import index_name, shard_name
from mpu_cli.errors import BadBundleError

DELTA_STEM, MODEL_STEM = "delta", "model"
_SHARD = re.compile(r"[a-z]+-[0-9]{5,6}-of-(?P<total>[0-9]{5,6})\.safetensors")
_ASK = "ask for the files again"


def check_files(manifest: HandoffManifest | UpdateManifest, where: object) -> None:
    """Check what the manifest of `where` lists.

    A copy without any weights, or without its configuration, is found when it is opened.

    Raises:
        BadBundleError: a copy lists a file that it cannot hold, or not all shards of its weights.
    """
    kind = "a handoff" if isinstance(manifest, HandoffManifest) else "an update"
    for copy in manifest.copies:
        place = f"{where}: lists {copy.name}"
        for name in copy.files:
            if not may_hold(copy, name):
                raise BadBundleError(f"{place}/{name}, which {kind} cannot hold")
        if (absent := _absent(copy)) is not None:
            raise BadBundleError(f"{place} without {absent}", _ASK)
        if (unused := _unused(copy)) is not None:
            raise BadBundleError(f"{place}/{unused}, which belongs to no set of weights", _ASK)


def may_hold(copy: PublishedCopy | UpdateCopy, name: str) -> bool:
    """Whether a copy may list a file of this name, whatever else it lists."""
    if isinstance(copy, UpdateCopy):
        return update_may_hold(copy.payload, name)
    return _is_weights(name, MODEL_STEM) or is_allowed(name)


def update_may_hold(payload: str, name: str) -> bool:
    """Whether a file of this name may lie in the directory of an update's copy."""
    return name in ADAPTER_FILES if payload == "lora" else _is_weights(name, _stem(payload))


def surplus(payload: str, names: Collection[str]) -> str | None:
    """The first file of an update's copy that its payload does not use, or None."""
    entries = dict.fromkeys(names, FileEntry("", 0))
    return min((name for name in names if not update_may_hold(payload, name)), default=None) or (
        _unused(UpdateCopy("", "", payload, entries))
    )


def _stem(payload: str) -> str:
    return MASKED if payload == MASKED else DELTA_STEM


def _is_weights(name: str, stem: str) -> bool:
    return name in {f"{stem}.safetensors", index_name(stem)} or (
        name.startswith(f"{stem}-") and _SHARD.fullmatch(name) is not None
    )


def _weights(copy: PublishedCopy | UpdateCopy) -> tuple[str, list[str]]:
    """What the names of a copy's weights begin with, and those names, sorted."""
    stem = _stem(copy.payload) if isinstance(copy, UpdateCopy) else MODEL_STEM
    return stem, sorted(name for name in copy.files if _is_weights(name, stem))


def _absent(copy: PublishedCopy | UpdateCopy) -> str | None:
    """The first file that a set of shards lacks, or None."""
    stem, names = _weights(copy)
    total = _total(names)
    if f"{stem}.safetensors" in names or not total:
        return None
    # One of the first len(names) + 1 is absent if there are too few: no long loop.
    expected = [shard_name(stem, k, total) for k in range(1, min(total, len(names) + 1) + 1)]
    return next((name for name in [*expected, index_name(stem)] if name not in names), None)


def _total(names: Sequence[str]) -> int:
    """How many shards the first shard claims; 0 without one."""
    totals = [match["total"] for match in map(_SHARD.fullmatch, names) if match]
    return int(totals[0]) if totals else 0


def _unused(copy: PublishedCopy | UpdateCopy) -> str | None:
    """The first file of weights beside a complete set, or None."""
    stem, names = _weights(copy)
    single = f"{stem}.safetensors"
    if single in names:
        used = {single}
    else:
        total = min(_total(names), len(names))
        used = {shard_name(stem, k, _total(names)) for k in range(1, total + 1)}
        used |= {index_name(stem)} if used else set()
    return next((name for name in names if name not in used), None)


def check_alike(copies: Sequence[PublishedCopy], where: object) -> None:
    """Require that the copies of a handoff differ in their weights only.

    `perturb` writes the same configuration, tokenizer, template and index into every copy. Copies
    that differ in them compute, or are trained on, different things, and that does not cancel.

    Raises:
        BadBundleError: names the two copies and the file.
    """
    first, *others = copies
    for copy in others:
        for name in sorted(first.files.keys() | copy.files.keys()):
            if _shared(first.files, name) != _shared(copy.files, name):
                raise BadBundleError(
                    f"{where}: {copy.name}/{name} differs from that of {first.name}, although the"
                    " copies of a handoff differ in their weights only: they would not be"
                    " trained alike",
                    "ask for the handoff again",
                )


def _shared(files: Mapping[str, FileEntry], name: str) -> object:
    """What must be the same in every copy: a file's entry, or for weights that it is there."""
    entry = files.get(name)
    return entry is not None if Path(name).suffix == ".safetensors" else entry
