"""SSHSIG, the signature format of `ssh-keygen -Y sign` (OpenSSH's PROTOCOL.sshsig).

A signature is over the digest of a message and a *namespace*, which says what it is for: one made
for a handoff cannot be taken for one of an update, of a git commit or of an e-mail.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from mpu_cli.bundle.signatures.public_key import SshPublicKey
from mpu_cli.bundle.signatures.wire import WireReader, string
from mpu_cli.errors import BadBundleError

MAX_BYTES = 64 << 10
"""The limit of a signature file; one of a 16384-bit RSA key has 6 kB."""
_MAGIC, _VERSION = b"SSHSIG", 1
_HASHES = ("sha256", "sha512")
_BEGIN, _END = b"-----BEGIN SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\n"
_WIDTH = 70
_AGAIN = "ask for it again; it is the output of ssh-keygen -Y sign, or of mpu"


@dataclass(frozen=True, slots=True)
class SshSignature:
    """A signature, well-formed and not yet compared with a message."""

    key: SshPublicKey
    namespace: str
    hash: str
    """sha256 or sha512: what the message was reduced by."""
    value: bytes
    """In SSH's encoding."""

    def covers(self, message: bytes) -> bool:
        """Whether the key made it of exactly this message.

        Raises:
            ValueError: see `SshPublicKey.verifies`.
        """
        return self.key.verifies(self.value, signed_data(self.namespace, self.hash, message))

    def encode(self) -> bytes:
        """The text of a signature file, byte for byte as `ssh-keygen` writes it."""
        blob = (
            _MAGIC
            + _VERSION.to_bytes(4)
            + string(self.key.blob)
            + string(self.namespace.encode())
            + string(b"")
            + string(self.hash.encode())
            + string(self.value)
        )
        text = base64.b64encode(blob)
        lines = [text[start : start + _WIDTH] + b"\n" for start in range(0, len(text), _WIDTH)]
        return _BEGIN + b"".join(lines) + _END


def signed_data(namespace: str, hash: str, message: bytes) -> bytes:
    """The bytes that the key signs in place of the message."""
    digest = hashlib.new(hash, message).digest()
    parts = (namespace.encode(), b"", hash.encode(), digest)
    return _MAGIC + b"".join(string(part) for part in parts)


def read_signature(data: bytes, where: object) -> SshSignature:
    """Parse the bytes of a signature file.

    Only the spelling of `ssh-keygen` is taken, so no bit of the file can change unnoticed.

    Raises:
        BadBundleError: it is no such file, or of a kind that mpu does not verify.
    """
    if len(data) > MAX_BYTES:
        raise BadBundleError(f"{where}: larger than 64 KiB, the limit for a signature", _AGAIN)
    if not (data.startswith(_BEGIN) and data.endswith(_END)):
        raise BadBundleError(f"{where}: not an SSH signature", _AGAIN)
    try:
        blob = base64.b64decode(data[len(_BEGIN) : -len(_END)].replace(b"\n", b""), validate=True)
        signature = _read(blob)
    except (binascii.Error, ValueError) as error:
        raise BadBundleError(f"{where}: not a signature that mpu reads: {error}", _AGAIN) from error
    if signature.encode() != data:
        raise BadBundleError(f"{where}: not spelt as ssh-keygen does: it was edited", _AGAIN)
    return signature


def _read(blob: bytes) -> SshSignature:
    reader = WireReader(blob)
    if reader.take(len(_MAGIC)) != _MAGIC or reader.uint32() != _VERSION:
        raise ValueError("its version is not 1")
    key = SshPublicKey.read(reader.string())
    namespace, reserved, hash, value = (
        reader.text(),
        reader.string(),
        reader.text(),
        reader.string(),
    )
    reader.done()
    if reserved or hash not in _HASHES:
        raise ValueError("its reserved field is used" if reserved else "its hash is not SHA-2")
    return SshSignature(key, namespace, hash, value)
