"""The ordered checks of a bundle.

Bytes in, verified objects out, no I/O (after python-tuf's trusted metadata set).

Whatever the other party sent is hostile until it has passed here. Each step refuses to run before
the one that it stands on: manifest → listing → files → (tensors, in `tensors.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mpu_cli.bundle.adapter import ADAPTER_FILES
from mpu_cli.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    Files,
    HandoffManifest,
    PublishedCopy,
    UpdateCopy,
    UpdateManifest,
    decode,
)
from mpu_cli.bundle.strays import explain_stray
from mpu_cli.bundle.tensors import DELTA_STEM
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.side_files import MAX_TEMPLATE_BYTES, MAX_TEMPLATES, is_allowed
from mpu_cli.errors import BadBundleError, GateError

_WEIGHTS = (".safetensors", ".safetensors.index.json")


class TrustedBundle:
    """A handoff or an update on its way to being believed."""

    def __init__(self, where: object) -> None:
        self._where = where
        self._manifest: HandoffManifest | UpdateManifest | None = None
        self._listed = False
        self._unread: set[tuple[str, str]] = set()

    def read_manifest(self, data: bytes) -> HandoffManifest | UpdateManifest:
        """Step 1: the manifest is canonical, complete, and matches its own digest."""
        manifest = decode(data, f"{self._where}/{MANIFEST}")
        for copy in manifest.copies:
            for name in copy.files:
                if not _may_hold(copy, name):
                    raise BadBundleError(
                        f"{self._where}: lists {copy.name}/{name}, which {_kind(manifest)} never"
                        " holds"
                    )
            templates = [
                entry.bytes
                for name, entry in copy.files.items()
                if name.startswith(f"{TEMPLATES}/")
            ]
            if len(templates) > MAX_TEMPLATES or max(templates, default=0) > MAX_TEMPLATE_BYTES:
                raise BadBundleError(
                    f"{self._where}: {copy.name}/{TEMPLATES} lists more, or larger, chat templates"
                    " than mpu publishes"
                )
        self._manifest = manifest
        return manifest

    def check_listing(self, found: Mapping[str, Mapping[str, int]]) -> None:
        """Step 2: `found` (folder → file → bytes, "" for the top) is what the manifest lists, nothing more or less."""
        manifest = self._checked()
        expected = {copy.name: copy.files for copy in manifest.copies}
        top = found.get("", {})
        for name in sorted(
            (set(found) - set(expected) - {""}) | (set(top) - {MANIFEST, SIGNATURE})
        ):
            raise self._stray(name, name, {*expected, MANIFEST}, {*found, *top})
        for folder, files in expected.items():
            self._check_folder(folder, files, found.get(folder, {}))
        self._unread = {(folder, name) for folder, files in expected.items() for name in files}
        self._listed = True

    def _check_folder(self, folder: str, files: Files, found: Mapping[str, int]) -> None:
        for name in sorted(set(found) - set(files)):
            raise self._stray(f"{folder}/{name}", name, files, found)
        for name, entry in files.items():
            if name not in found:
                raise BadBundleError(
                    f"{self._where}/{folder}/{name}: is listed in {MANIFEST} but absent",
                    "copy it again",
                )
            if found[name] != entry.bytes:
                raise BadBundleError(
                    f"{self._where}/{folder}/{name}: {found[name]} bytes, {MANIFEST} says"
                    f" {entry.bytes}",
                    "copy it again",
                )

    def _stray(
        self, path: str, name: str, listed: Collection[str], found: Collection[str]
    ) -> BadBundleError:
        what, remedy = explain_stray(name, listed, found)
        return BadBundleError(f"{self._where}/{path}: {what}", remedy)

    def check_file(self, folder: str, name: str, sha256: str) -> None:
        """Step 3, for every listed file: its bytes have the listed digest."""
        if not self._listed:
            raise RuntimeError("files are checked after the listing")
        manifest = self._checked()
        entry = next(copy.files for copy in manifest.copies if copy.name == folder)[name]
        if entry.sha256 != sha256:
            raise BadBundleError(
                f"{self._where}/{folder}/{name}: its bytes do not match {MANIFEST}", "copy it again"
            )
        self._unread.discard((folder, name))

    def finish(self) -> HandoffManifest | UpdateManifest:
        """The manifest, once every file has been checked."""
        manifest = self._checked()
        if not self._listed or self._unread:
            raise RuntimeError("not every file has been checked")
        return manifest

    def _checked(self) -> HandoffManifest | UpdateManifest:
        if self._manifest is None:
            raise RuntimeError("the manifest is checked first")
        return self._manifest


def _kind(manifest: HandoffManifest | UpdateManifest) -> str:
    return "a handoff" if isinstance(manifest, HandoffManifest) else "an update"


def _may_hold(copy: PublishedCopy | UpdateCopy, name: str) -> bool:
    if isinstance(copy, UpdateCopy):
        return update_may_hold(copy.payload, name)
    return name.startswith("model") if name.endswith(_WEIGHTS) else is_allowed(name)


def update_may_hold(payload: str, name: str) -> bool:
    """Whether a file of this name may lie in the directory of an update's copy."""
    if payload == "lora":
        return name in ADAPTER_FILES
    return name.endswith(_WEIGHTS) and name.startswith((f"{DELTA_STEM}.", f"{DELTA_STEM}-"))


def check_update_of(
    update: UpdateManifest, handoff_id: str, handoff_digest: str, copies: Mapping[str, str]
) -> None:
    """The update belongs to this handoff, and each of its copies to the published copy of its name.

    `copies` has the published copies' digests by name.

    Raises:
        GateError: another handoff, an unknown copy, or a copy handed in under another's name.
    """
    if update.handoff_id != handoff_id or update.handoff_digest != handoff_digest:
        raise GateError(
            f"the update answers handoff {update.handoff_id}, not {handoff_id}",
            "hand in the update that was made from this handoff",
        )
    for copy in update.copies:
        if copy.name not in copies:
            raise GateError(f"the update holds {copy.name}, which the handoff does not have")
        if copy.of != copies[copy.name]:
            raise GateError(
                f"{copy.name} of the update was made from another copy", "were two copies swapped?"
            )
