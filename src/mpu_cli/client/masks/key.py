"""A member's key: X25519. The private part stays in a PEM file, the public part is one line."""

from __future__ import annotations

import base64
import re
import stat
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.staged_file import refuse_existing_file, staged_file
from mpu_cli.errors import BadInputError, MpuWarning, UsageError

PUBLIC_SUFFIX = ".pub"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""A member's name in a group file. It stays with the members."""
_MAX_BYTES = 64 << 10
_MAKE_ONE = "give the file that mpu mask key made"


@dataclass(frozen=True, slots=True)
class MaskKey:
    """A member's private key, its public key (64 hexadecimal digits), and the file of the first."""

    path: Path
    public: str
    private: X25519PrivateKey = field(repr=False)

    def shared_with(self, public: str) -> bytes:
        """The 32 bytes that only the owners of two keys can compute (RFC 7748).

        Raises:
            ValueError: see `is_usable`.
        """
        return self.private.exchange(_public_key(public))


def new_key(path: Path, name: str) -> str:
    """Make a key: the private part in `path` (mode 0600), the line for a group file in `path`.pub.

    If a key is there without its public line, as after a crash, only the line is written.

    Returns:
        The public key, 64 hexadecimal digits.

    Raises:
        UsageError: the name cannot stand in a group file.
        OutputError: a file exists, or cannot be written.
    """
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be a member's name in a group file",
            "give --name NAME: 1 to 64 of a-z, A-Z, 0-9, dots, hyphens and underscores, first a"
            " letter or digit",
        )
    refuse_existing_file(public_path(path), force=None)
    private = _left_alone(path)
    if private is None:
        private = X25519PrivateKey.generate()
        with staged_file(path, force=None, mode=0o600) as file:
            file.write(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
    public = private.public_key().public_bytes_raw().hex()
    with staged_file(public_path(path), force=None) as file:
        file.write(f"{name} {in_base64(public)}\n".encode())
    return public


def _left_alone(path: Path) -> X25519PrivateKey | None:
    """The key of a run that died before it wrote the public line."""
    try:
        return read_key(path).private
    except BadInputError:  # no file, which is as it should be, or another one, which is refused
        return None


def public_path(path: Path) -> Path:
    """Where the public line of a private key lies: `lab.key.pub` beside `lab.key`, as with SSH."""
    return path.with_name(path.name + PUBLIC_SUFFIX)


def read_key(path: Path) -> MaskKey:
    """Read a private key; one that other users can read is closed, with a warning.

    Raises:
        BadInputError: no such file, or no unencrypted X25519 key in PEM form.
    """
    data = read_file(path, _MAX_BYTES, BadInputError, _MAKE_ONE)
    try:
        private = serialization.load_pem_private_key(data, password=None)
    except TypeError as error:
        raise BadInputError(
            f"{path}: is encrypted", "decrypt it first, for instance with openssl pkey"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInputError(f"{path}: holds no private key in PEM form", _MAKE_ONE) from error
    if not isinstance(private, X25519PrivateKey):
        raise BadInputError(f"{path}: holds a key of another kind than X25519", _MAKE_ONE)
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        warnings.warn(
            f"{path}: other users of this machine can read it (mode {mode:04o}); {_closed(path)}."
            " Whoever has read it can remove this member's masks: if somebody may have, make a new"
            " key",
            MpuWarning,
            stacklevel=2,
        )
    return MaskKey(path, private.public_key().public_bytes_raw().hex(), private)


def _closed(path: Path) -> str:
    try:
        path.chmod(0o600)
    except OSError:
        return "close it: chmod 600"
    return "from now on only you can"


def is_usable(public: str) -> bool:
    """Whether a public key has its one spelling, and not every shared secret with it is zero.

    X25519 ignores the highest bit and reduces modulo 2²⁵⁵ − 19, so one key could stand in a group
    under several spellings, as several members.
    """
    if int.from_bytes(bytes.fromhex(public), "little") >= 2**255 - 19:
        return False
    try:
        X25519PrivateKey.generate().exchange(_public_key(public))
    except ValueError:
        return False
    return True


def in_base64(public: str) -> str:
    """A public key as a group file has it (44 characters, as WireGuard writes its keys)."""
    return base64.b64encode(bytes.fromhex(public)).decode()


def from_base64(text: str) -> str | None:
    """The reverse; None if the text is not the one spelling of 32 bytes."""
    try:
        public = base64.b64decode(text, validate=True).hex()
    except ValueError:
        return None
    return public if len(public) == 64 and in_base64(public) == text else None


def _public_key(public: str) -> X25519PublicKey:
    return X25519PublicKey.from_public_bytes(bytes.fromhex(public))
