"""Sign with a private SSH key: one in a file, or one that an agent or a device holds.

An unprotected key in OpenSSH's format signs here. Everything else signs in `ssh-keygen`, as git
does it: a key that is protected by a passphrase, a key given by its `.pub` file, a security key.
mpu never asks for a passphrase: at the end of a long training nobody sits there to type it.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from mpu_cli.bundle.signatures.public_key import (
    CURVES,
    ED25519,
    RSA,
    RSA_SHA2,
    SshPublicKey,
    hash_of,
)
from mpu_cli.bundle.signatures.sshsig import SshSignature, read_signature, signed_data
from mpu_cli.bundle.signatures.wire import natural, string
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.errors import BadInputError, MpuError

_MAX_BYTES = 64 << 10
_OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
_SECONDS = 120
"""How long `ssh-keygen` may take: a security key waits for a touch."""
_GIVE = "give an SSH key, ~/.ssh/id_ed25519 for one; ssh-keygen -t ed25519 makes one"


class SigningKey:
    """A key that can sign, and its public half."""

    def __init__(self, key: SshPublicKey, sign: Callable[[str, bytes], SshSignature]) -> None:
        self.key, self._sign = key, sign

    def sign(self, message: bytes, namespace: str) -> bytes:
        """The bytes of a signature file.

        Raises:
            BadInputError: `ssh-keygen` no longer signs: the agent has forgotten the key.
        """
        signature = self._sign(namespace, message)
        if signature.key != self.key or not signature.covers(message):
            raise RuntimeError("the signature just made does not verify")
        return signature.encode()


def open_signing_key(path: Path) -> SigningKey:
    """Open a key, and let `ssh-keygen` try it once: a wrong key shows before the work.

    Args:
        path: a private key, or the `.pub` file of one that `ssh-keygen` finds (in the agent).

    Raises:
        BadInputError: no key, one that other users can read, a weak or unsupported one, or one
            that needs a passphrase and is not in the agent.
    """
    data = read_file(path, _MAX_BYTES, BadInputError, _GIVE)
    if b"PRIVATE KEY-----" in data:
        refuse_readable_by_others(path)
    try:
        signing = _in_process(data) if data.startswith(_OPENSSH) else None
    except ValueError as error:
        raise BadInputError(f"{path}: {error}", _GIVE) from error
    return _with_ssh_keygen(path) if signing is None else signing


def refuse_readable_by_others(path: Path) -> None:
    """Refuse a private key that other users can read, as ssh does.

    Raises:
        BadInputError: its mode gives the group or all any right.
    """
    status = path.stat()
    if status.st_uid == os.geteuid() and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInputError(
            f"{path}: is a private key that other users can read",
            f"chmod 600 {quote(str(path))}",
        )


def _in_process(data: bytes) -> SigningKey | None:
    """The key in a file of OpenSSH's format; None if it needs a passphrase or a device.

    Raises:
        ValueError: the file is damaged, or the key is weak.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        PublicFormat,
        load_ssh_private_key,
    )

    try:
        private: Any = load_ssh_private_key(data, password=None)
    except (TypeError, UnsupportedAlgorithm):  # a passphrase is needed; a security key
        return None
    except (ValueError, LookupError, AssertionError) as error:
        raise ValueError("not a private key, or damaged") from error
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    key = SshPublicKey.parse(line.decode())

    def sign(namespace: str, message: bytes) -> SshSignature:
        data = signed_data(namespace, "sha512", message)
        return SshSignature(key, namespace, "sha512", _raw(private, key.kind, data))

    return SigningKey(key, sign)


def _raw(private: Any, kind: str, data: bytes) -> bytes:
    """A signature in SSH's encoding."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    algorithm = kind
    if kind == ED25519:
        value = private.sign(data)
    elif kind == RSA:
        algorithm = RSA_SHA2[1]
        value = private.sign(data, padding.PKCS1v15(), hashes.SHA512())
    else:
        assert kind in CURVES
        r, s = decode_dss_signature(private.sign(data, ec.ECDSA(hash_of(kind))))
        value = natural(r) + natural(s)
    return string(algorithm.encode()) + string(value)


def _with_ssh_keygen(path: Path) -> SigningKey:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise BadInputError(
            f"{path}: only ssh-keygen can sign with this key, and it is not installed",
            "install openssh-client, or give a private key without a passphrase",
        )

    def sign(namespace: str, message: bytes) -> SshSignature:
        # Without a terminal and without askpass it cannot wait for a passphrase.
        try:
            done = subprocess.run(
                [program, "-Y", "sign", "-f", str(path), "-n", namespace],
                input=message,
                capture_output=True,
                check=False,
                timeout=_SECONDS,
                start_new_session=True,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
            )
        except subprocess.TimeoutExpired as error:
            raise BadInputError(
                f"{path}: ssh-keygen did not sign within {_SECONDS} s", "touch the security key"
            ) from error
        if done.returncode:
            raise _refused(path, done.stderr)
        return read_signature(done.stdout, f"the answer of ssh-keygen for {path}")

    return SigningKey(sign("mpu-trial", b"").key, sign)


def _refused(path: Path, said: bytes) -> MpuError:
    lines = said.decode(errors="replace").strip().splitlines()
    private, reason = str(path).removesuffix(".pub"), lines[-1][:200] if lines else "no reason"
    return BadInputError(
        f"{path}: ssh-keygen cannot sign with this key: {reason}",
        f"if it has a passphrase, add it to the agent first: ssh-add {quote(private)}; {_GIVE}",
    )
