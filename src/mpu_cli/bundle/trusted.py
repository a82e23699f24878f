"""The ordered checks of a bundle: bytes in, verified objects out, no I/O.

A bundle from the other party is untrusted until it passes them. Each step needs the previous one:
signature → manifest → listing → files → tensors (in `tensors.py`). The design follows the trusted
metadata set of python-tuf.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from mpu_cli.bundle.copy_files import check_files
from mpu_cli.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    Files,
    HandoffManifest,
    UpdateManifest,
    decode,
)
from mpu_cli.bundle.signatures.trust import ANYBODY, BundleSigner, Trust, require_kind
from mpu_cli.bundle.strays import explain_stray
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.side_files import MAX_TEMPLATE_BYTES, MAX_TEMPLATES
from mpu_cli.errors import BadBundleError, GateError


class TrustedBundle:
    """A handoff or an update while it is being verified."""

    def __init__(self, where: object, trust: Trust = ANYBODY) -> None:
        self._where, self._trust = where, trust
        self.signer: BundleSigner | None = None
        """Who signed the manifest; None if nobody did."""
        self._manifest: HandoffManifest | UpdateManifest | None = None
        self._listed = False
        self._unread: set[tuple[str, str]] = set()

    def read_manifest(
        self, data: bytes, signature: bytes | None = None
    ) -> HandoffManifest | UpdateManifest:
        """Step 1: check the signature, then that the manifest is canonical and complete.

        Args:
            data: the bytes of `mpu.yaml`.
            signature: those of `mpu.yaml.sig`; None if there is none.
        """
        self.signer = self._trust.check(self._where, data, signature)
        manifest = decode(data, f"{self._where}/{MANIFEST}")
        require_kind(
            self._where,
            self.signer,
            "handoff" if isinstance(manifest, HandoffManifest) else "update",
        )
        check_files(manifest, self._where)
        for copy in manifest.copies:
            templates = [
                entry.bytes
                for name, entry in copy.files.items()
                if name.startswith(f"{TEMPLATES}/")
            ]
            if len(templates) > MAX_TEMPLATES or max(templates, default=0) > MAX_TEMPLATE_BYTES:
                raise BadBundleError(
                    f"{self._where}: {copy.name}/{TEMPLATES} holds more than {MAX_TEMPLATES} chat"
                    f" templates, or one larger than {MAX_TEMPLATE_BYTES >> 20} MiB"
                )
        self._manifest = manifest
        return manifest

    def check_listing(self, present: Mapping[str, Mapping[str, int]]) -> None:
        """Step 2: check that `present` (folder → file → bytes, "" for the top) is listed."""
        manifest = self._checked()
        expected = {copy.name: copy.files for copy in manifest.copies}
        top = present.get("", {})
        for name in sorted(
            (set(present) - set(expected) - {""}) | (set(top) - {MANIFEST, SIGNATURE})
        ):
            raise self._stray(name, name, {*expected, MANIFEST}, {*present, *top})
        for folder, files in expected.items():
            self._check_folder(folder, files, present.get(folder, {}))
        self._unread = {(folder, name) for folder, files in expected.items() for name in files}
        self._listed = True

    def _check_folder(self, folder: str, files: Files, present: Mapping[str, int]) -> None:
        for name in sorted(set(present) - set(files)):
            raise self._stray(f"{folder}/{name}", name, files, present)
        for name, entry in files.items():
            if name not in present:
                raise BadBundleError(
                    f"{self._where}/{folder}/{name}: is listed in {MANIFEST} but absent",
                    "copy it again",
                )
            if present[name] != entry.bytes:
                raise BadBundleError(
                    f"{self._where}/{folder}/{name}: has {present[name]} bytes, but {MANIFEST} says"
                    f" {entry.bytes}",
                    "copy it again",
                )

    def _stray(
        self, path: str, name: str, listed: Collection[str], present: Collection[str]
    ) -> BadBundleError:
        what, remedy = explain_stray(name, listed, present)
        return BadBundleError(f"{self._where}/{path}: {what}", remedy)

    def check_file(self, folder: str, name: str, sha256: str) -> None:
        """Step 3: check the digest of one listed file."""
        if not self._listed:
            raise RuntimeError("check the listing before the files")
        manifest = self._checked()
        entry = next(copy.files for copy in manifest.copies if copy.name == folder)[name]
        if entry.sha256 != sha256:
            raise BadBundleError(
                f"{self._where}/{folder}/{name}: its bytes do not match {MANIFEST}", "copy it again"
            )
        self._unread.discard((folder, name))

    def finish(self) -> HandoffManifest | UpdateManifest:
        """Return the manifest after every file was checked."""
        manifest = self._checked()
        if not self._listed or self._unread:
            raise RuntimeError("not every file has been checked")
        return manifest

    def _checked(self) -> HandoffManifest | UpdateManifest:
        if self._manifest is None:
            raise RuntimeError("check the manifest first")
        return self._manifest


def check_update_of(
    update: UpdateManifest, handoff_id: str, handoff_digest: str, copies: Mapping[str, str]
) -> None:
    """Check that an update and each of its copies belong to this handoff.

    `copies` holds the published copies' digests by name.

    Raises:
        GateError: another handoff, an unknown copy, or a copy under the name of another.
    """
    if update.handoff_id == handoff_id and update.handoff_digest != handoff_digest:
        raise GateError(
            f"the update was made from handoff {handoff_id}, but from another version of it: one of"
            " the two was altered",
            "compare the digests that mpu inspect prints of the handoff on both sides",
        )
    if update.handoff_id != handoff_id:
        raise GateError(
            f"the update was made from handoff {update.handoff_id}, not from {handoff_id}",
            "give the update that was made from this handoff",
        )
    for copy in update.copies:
        if copy.name not in copies:
            raise GateError(f"the update holds {copy.name}, which the handoff does not have")
        if copy.of != copies[copy.name]:
            raise GateError(
                f"{copy.name} of the update was made from another copy",
                "check whether two copies were swapped",
            )
