"""Who signed a manifest, and whether that is enough.

The signature is verified over the exact bytes of `mpu.yaml`, before they are parsed. Exit codes: 3
if the file is no signature, 1 if it does not fit, or is of somebody else than was asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mpu_cli.bundle.manifest import SIGNATURE
from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners
from mpu_cli.bundle.signatures.public_key import SshPublicKey
from mpu_cli.bundle.signatures.sshsig import read_signature
from mpu_cli.errors import BadBundleError, SignatureError

NAMESPACES = {"handoff": "mpu-handoff-v1", "update": "mpu-update-v1"}
"""What a signature is for, by the manifest's kind."""
_ASK = "ask the sender, by another way than the one that the files took"


@dataclass(frozen=True, slots=True)
class BundleSigner:
    """Who signed a manifest: a key, and its owner's name if somebody vouched for it."""

    key: SshPublicKey
    namespace: str
    principal: str | None = None

    @property
    def words(self) -> str:
        """`clinic (ED25519 SHA256:…)`, or the key alone."""
        key = f"{self.key.name} {self.key.fingerprint}"
        return key if self.principal is None else f"{self.principal} ({key})"

    def content(self) -> dict[str, str | None]:
        """What --json prints."""
        return {
            "principal": self.principal,
            "key": self.key.fingerprint,
            "key_type": self.key.name,
            "namespace": self.namespace,
        }


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose signatures are accepted; by default anybody's, and none at all."""

    signers: AllowedSigners | None = None
    """The keys of which one must have signed."""
    principal: str | None = None
    """Who the owner of the key must be; None = anybody in the file."""

    def check(self, where: object, manifest: bytes, signature: bytes | None) -> BundleSigner | None:
        """Check the signature of a manifest that nobody has parsed yet.

        Returns:
            Who signed it; None if it is not signed, and need not be.

        Raises:
            BadBundleError: not a signature file.
            SignatureError: there is none and there must be one, it does not fit the manifest, it
                is not one of mpu, or its key is not allowed.
        """
        if signature is None:
            return self.accept(where, None)
        place = f"{where}/{SIGNATURE}"
        found = read_signature(signature, place)
        if found.namespace not in NAMESPACES.values():
            raise SignatureError(
                f"{place}: made for another purpose (namespace {found.namespace[:60]!r})",
                f"mpu perturb, unlearn and diff sign with --sign; ssh-keygen -Y sign needs -n"
                f" {NAMESPACES['handoff']} or -n {NAMESPACES['update']}",
            )
        try:
            fits = found.covers(manifest)
        except ValueError as error:
            raise BadBundleError(
                f"{place}: not a signature that mpu reads: {error}", _ASK
            ) from error
        if not fits:
            raise SignatureError(
                f"{place}: does not fit mpu.yaml: one of the two was altered", "copy both again"
            )
        return self.accept(where, BundleSigner(found.key, found.namespace))

    def accept(self, where: object, signer: BundleSigner | None) -> BundleSigner | None:
        """Check only whose signature it is, which was verified before.

        Raises:
            SignatureError: see `check`.
        """
        if self.signers is None:
            return signer
        file, who = self.signers.where, self.principal
        if signer is None:
            raise SignatureError(
                f"{where}: is not signed, but {who or 'somebody'} in {file} must have signed it",
                f"ask for the signed files, with {SIGNATURE} beside mpu.yaml",
            )
        lines = [line for line in self.signers.lines if line.key == signer.key]
        named = [line for line in lines if who is None or line.names(who)]
        usable = [line for line in named if line.is_for(signer.namespace)]
        valid = [line for line in usable if line.is_valid(datetime.now(UTC))]
        if not valid:
            what = (
                f"no key of {who or 'anybody'} in {file}"
                if not named
                else f"a key that {file} does not allow for {signer.namespace}"
                if not usable
                else f"a key that may not be used now (valid-after, valid-before in {file})"
            )
            raise SignatureError(
                f"{where}: signed with {signer.words}, {what}",
                f"do not use it; {_ASK}, and add a new key of theirs to {file}",
            )
        return replace(signer, principal=who or valid[0].principals)


ANYBODY = Trust()
"""Signed by anybody, or not at all; a signature that is there must still fit."""


def require_kind(where: object, signer: BundleSigner | None, kind: str) -> None:
    """Check that a signature was made for this kind of manifest.

    Raises:
        SignatureError: one of an update was put beside a handoff, or the reverse.
    """
    if signer is not None and signer.namespace != NAMESPACES[kind]:
        raise SignatureError(
            f"{where}/{SIGNATURE}: made for another purpose (namespace {signer.namespace})", _ASK
        )
