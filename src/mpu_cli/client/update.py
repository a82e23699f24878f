"""Assemble an update: one payload (a delta or an adapter) per copy, and the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpu_cli.bundle.copy_files import surplus
from mpu_cli.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    HandoffManifest,
    UpdateCopy,
    UpdateManifest,
    encode,
    listed,
)
from mpu_cli.bundle.mask import MASKED, Mask
from mpu_cli.bundle.payload import check_changes, check_numbers, open_changes, payload_of
from mpu_cli.bundle.read import read_update
from mpu_cli.bundle.sign import PARTIAL_SIGNATURE, sign_finished, write_signature
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.digest import file_digest
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import PARTIAL, disk_errors, flush_tree
from mpu_cli.checkpoint.writer import Files, write_new
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.errors import BadBundleError, CheckFailedError

NOTE = ".recipe.json"
"""Beside the payload of a copy made alone: the recipe's fingerprint. `finish` removes it."""
_PARTIAL = f".{MANIFEST}{PARTIAL}"


def make_copy_directory(path: Path, out: Path) -> Path:
    """Make the directory of one copy, readable by all whatever the umask; errors name `out`."""
    with disk_errors(out):
        path.mkdir()
        set_mode(path, 0o755)
    return path


def write_manifest(
    directory: Path,
    handoff: HandoffManifest,
    written: Mapping[str, Files] | None = None,
    mask: Mask | None = None,
    signing: SigningKey | None = None,
) -> UpdateManifest:
    """List every copy of the handoff below `directory` and write `mpu.yaml` atomically.

    Its signature is there before it, so a complete update that was to be signed is signed.

    Args:
        directory: the update's.
        handoff: what it answers.
        written: digests and sizes of each copy's files as they were written; files of copies that
            it lacks are hashed.
        mask: whose masks lie on all copies.
        signing: the key that signs the manifest, if one does.

    Raises:
        BadInputError: see `SigningKey.sign`.
        RuntimeError: the directory holds other files than were written.
    """
    copies = []
    for copy in handoff.copies:
        present = sorted(file for file in (directory / copy.name).iterdir() if file.name != NOTE)
        known = (written or {}).get(copy.name)
        files = (
            {file.name: (file_digest(file), file.stat().st_size) for file in present}
            if known is None
            else known
        )
        if {(file.name, file.stat().st_size) for file in present} != {
            (name, size) for name, (_, size) in files.items()
        }:
            raise RuntimeError(f"{directory / copy.name} does not hold what was written there")
        payload = payload_of(directory / copy.name) if mask is None else MASKED
        copies.append(UpdateCopy(copy.name, copy.digest, payload, listed(files)))
    manifest = UpdateManifest(handoff.id, handoff.digest, tuple(copies), mask)
    write_signature(directory, manifest, signing)
    with staged_file(directory / MANIFEST) as file:
        file.write(encode(manifest))
    return manifest


def write_note(
    directory: Path,
    fingerprint: str,
    handoff: HandoffManifest,
    files: Files,
    *,
    train_embeddings: bool = False,
) -> None:
    """Write one copy's recipe, handoff and files next to its payload, for `finish` to compare."""
    note = {
        "recipe": fingerprint,
        "handoff": handoff.digest,
        "files": sorted(files),
        "train_embeddings": train_embeddings,
    }
    write_new(directory / NOTE, json.dumps(note).encode(), 0o600)


def finish(
    directory: Path, opened: OpenHandoff, signing: SigningKey | None = None
) -> UpdateManifest:
    """Complete an update whose copies were made one by one with `--copy`, or check a finished one.

    `signing` signs it; a finished one too.

    Raises:
        BadBundleError: a copy is missing or was not made by `mpu unlearn --copy`, or a file does
            not belong here.
        CheckFailedError: the copies were made by different recipes or from another handoff.
    """
    handoff = opened.manifest
    for copy in handoff.copies:
        if not (directory / copy.name).is_dir():
            raise BadBundleError(
                f"{directory}: {copy.name} is missing",
                f"run mpu unlearn with --copy {copy.name[5:]} first",
            )
    _check_nothing_else(directory, handoff)
    if (directory / MANIFEST).exists():
        finished = _finished(directory, handoff)
        if signing is not None:
            sign_finished(directory, signing)
        return finished
    notes = {copy.name: _note(directory / copy.name) for copy in handoff.copies}
    first_name, first = next(iter(notes.items()))
    frozen = handoff.frozen if first.get("train_embeddings") is True else opened.frozen
    for name, note in notes.items():
        if note.get("handoff") != handoff.digest:
            raise CheckFailedError(
                f"{directory / name}: was made from another handoff", "train it again from this one"
            )
        if note.get("recipe") != first.get("recipe"):
            raise CheckFailedError(
                f"{directory / name}: was made by another recipe (method, settings, seed or data)"
                f" than {first_name}",
                "train it again with the same options as the others",
            )
        changes = open_changes(directory / name, payload_of(directory / name))
        check_changes(
            directory / name, changes, shapes(opened.copies[name].tensors), frozen, opened.matrices
        )
        check_numbers(directory / name, changes)
    with disk_errors(directory):
        manifest = write_manifest(directory, handoff, signing=signing)
    return _finished(directory, handoff, manifest)


def _finished(
    directory: Path, handoff: HandoffManifest, manifest: UpdateManifest | None = None
) -> UpdateManifest:
    """Remove the notes, which an interrupted run may have left, and check the whole update."""
    with disk_errors(directory):
        set_mode(directory, 0o755)
        for copy in handoff.copies:
            (directory / copy.name / NOTE).unlink(missing_ok=True)
        flush_tree(directory)
    manifest = manifest or read_update(directory)
    if manifest.handoff_digest != handoff.digest:
        raise CheckFailedError(
            f"{directory}: was made from another handoff", "choose another --out"
        )
    return manifest


def _check_nothing_else(directory: Path, handoff: HandoffManifest) -> None:
    names = {copy.name for copy in handoff.copies}
    foreign = [
        item
        for item in directory.iterdir()
        if item.name not in names | {MANIFEST, SIGNATURE, _PARTIAL, PARTIAL_SIGNATURE}
    ]
    for name in names:
        present = {file.name for file in (directory / name).iterdir()} - {NOTE}
        if (unused := surplus(payload_of(directory / name), present)) is not None:
            foreign.append(directory / name / unused)
    if foreign:
        raise BadBundleError(
            f"{min(foreign)}: is not part of an update but would be sent with it", "move it away"
        )


def _note(directory: Path) -> dict[str, Any]:
    try:
        note = json.loads((directory / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadBundleError(
            f"{directory}: was not made by mpu unlearn --copy (or the update is already finished)",
            "train it again",
        ) from error
    return note if isinstance(note, dict) else {}
