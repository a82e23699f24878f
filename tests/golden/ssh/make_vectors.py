"""Make the vectors beside this file: `python tests/golden/ssh/make_vectors.py [DIRECTORY]`.

Every signature is over the bytes of `tests/golden/handoff-v1/mpu.yaml` unless vectors.json says
otherwise. `ssh-keygen` (OpenSSH 8.9 or newer) makes the keys; it signs, mpu signs, and each checks
the other's. Then come signatures that must be refused. vectors.json lists each with its outcome:
`fits` (with allowed signers: accepted), `refused` (exit 1), `no signature` (exit 3).

    KIND.pub, KIND.ssh-keygen.sig, KIND.mpu.sig      a key and its signatures, made by each
    ed25519                                          the one private key that is kept (tests only)
    allowed_signers                                  all keys, as `signer`
    update.sig                                       over update-v1/mpu.yaml
    broken-*.sig                                     must be refused
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)

from mpu_cli.bundle.signatures.private_key import open_signing_key
from mpu_cli.bundle.signatures.public_key import SK_ECDSA, SK_ED25519, SshPublicKey
from mpu_cli.bundle.signatures.sshsig import SshSignature, read_signature, signed_data
from mpu_cli.bundle.signatures.wire import natural, string
from mpu_cli.errors import MpuError

GOLDEN = Path(__file__).parents[1]
HANDOFF, UPDATE = "mpu-handoff-v1", "mpu-update-v1"
KINDS = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa-256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa-384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa-521": ("-t", "ecdsa", "-b", "521"),
    "rsa-2048": ("-t", "rsa", "-b", "2048"),
    "rsa-3072": ("-t", "rsa", "-b", "3072"),
}


def ssh_keygen(*arguments: object, message: bytes = b"") -> bytes:
    """Run `ssh-keygen`; what it prints."""
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)], input=message, check=True, capture_output=True
    ).stdout


def accepted_by_ssh_keygen(place: Path, signature: Path, message: bytes, namespace: str) -> None:
    """Let `ssh-keygen -Y verify` check a signature against `allowed_signers`."""
    given = ("-f", place / "allowed_signers", "-I", "signer", "-n", namespace, "-s", signature)
    ssh_keygen("-Y", "verify", *given, message=message)


def security_key(kind: str) -> tuple[SshPublicKey, SshSignature]:
    """A key of the kind that a FIDO device holds, made in software, and its signature."""
    application, counter = b"ssh:", b"\x01" + (7).to_bytes(4)
    data = signed_data(HANDOFF, "sha512", (GOLDEN / "handoff-v1" / "mpu.yaml").read_bytes())
    signed = hashlib.sha256(application).digest() + counter + hashlib.sha256(data).digest()
    if kind == SK_ED25519:
        private = Ed25519PrivateKey.generate()
        fields = [private.public_key().public_bytes_raw()]
        value = private.sign(signed)
    else:
        curve = ec.generate_private_key(ec.SECP256R1())
        point = curve.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        fields = [b"nistp256", point]
        r, s = decode_dss_signature(curve.sign(signed, ec.ECDSA(hashes.SHA256())))
        value = natural(r) + natural(s)
    blob = b"".join(string(part) for part in (kind.encode(), *fields, application))
    key = SshPublicKey.read(blob)
    return key, SshSignature(
        key, HANDOFF, "sha512", string(kind.encode()) + string(value) + counter
    )


def armour(blob: bytes) -> bytes:
    """The text of a signature file."""
    text = base64.b64encode(blob)
    lines = b"".join(text[at : at + 70] + b"\n" for at in range(0, len(text), 70))
    return b"-----BEGIN SSH SIGNATURE-----\n" + lines + b"-----END SSH SIGNATURE-----\n"


def blob(*, magic=b"SSHSIG", version=1, key=b"", namespace=HANDOFF, reserved=b"", hash=b"sha512",
         value=b"", end=b"") -> bytes:  # fmt: skip
    """A signature before it is armoured."""
    parts = (key, namespace.encode(), reserved, hash, value)
    return magic + version.to_bytes(4) + b"".join(string(part) for part in parts) + end


def signed(private: Ed25519PrivateKey, message: bytes, namespace=HANDOFF, hash="sha512",
           reserved=b"") -> bytes:  # fmt: skip
    """A value that is right for what is said in it, however odd that is."""
    digest = hashlib.new(hash, message).digest()
    data = b"SSHSIG" + b"".join(
        string(part) for part in (namespace.encode(), reserved, hash.encode(), digest)
    )
    return string(b"ssh-ed25519") + string(private.sign(data))


def broken(keys: Path, good: bytes, message: bytes) -> dict[str, tuple[str, bytes, str]]:
    """Signatures to refuse by name: the outcome, the bytes, and why."""
    private = load_ssh_private_key((keys / "ed25519").read_bytes(), None)
    assert isinstance(private, Ed25519PrivateKey)
    found = read_signature(good, "good")
    key, value = found.key.blob, found.value
    curve = read_signature((keys / "ecdsa-256.ssh-keygen.sig").read_bytes(), "curve")
    last = bytearray(curve.value)
    last[-1] ^= 1
    weak = rsa.generate_private_key(65537, 1024)
    weak_key = string(b"ssh-rsa") + natural(65537) + natural(weak.public_key().public_numbers().n)
    strong = load_ssh_private_key((keys / "rsa-2048").read_bytes(), None)
    strong_key = SshPublicKey.parse((keys / "rsa-2048.pub").read_text()).blob
    data = signed_data(HANDOFF, "sha512", message)
    sha1 = string(b"ssh-rsa") + string(strong.sign(data, padding.PKCS1v15(), hashes.SHA1()))
    of_weak = string(b"rsa-sha2-512") + string(weak.sign(data, padding.PKCS1v15(), hashes.SHA512()))
    none, no = "no signature", "refused"
    return {
        "empty": (none, b"", "an empty file"),
        "text": (none, b"signature\n", "no armour"),
        "large": (none, good.replace(b"\n", b"\n" + b"A" * 70_000 + b"\n", 1), "more than 64 KiB"),
        "pem-of-another-kind": (none, good.replace(b"SSH SIG", b"PGP SIG"), "another armour"),
        "no-final-newline": (none, good[:-1], "not spelt as ssh-keygen does"),
        "windows-line-ends": (none, good.replace(b"\n", b"\r\n"), "likewise"),
        "other-line-width": (none, good.replace(b"\n", b"", 2).replace(b"SIGNATURE-----",
                             b"SIGNATURE-----\n", 1), "likewise"),
        "text-before": (none, b"hello\n" + good, "something before the armour"),
        "text-after": (none, good + b"hello\n", "something after the armour"),
        "twice": (none, good + good, "two signatures"),
        "not-base64": (none, good.replace(b"U1NI", b"U1N*", 1), "a character that is not base64"),
        "truncated": (none, armour(base64.b64decode(b"".join(good.split(b"\n")[1:-2]))[:-9]),
                      "the end is missing"),
        "longer": (none, armour(blob(key=key, value=value, end=b"x")), "a byte after the end"),
        "huge-length": (none, armour(b"SSHSIG\0\0\0\1\xff\xff\xff\xff" + key), "a length of 4 GB"),
        "magic": (none, armour(blob(magic=b"SSHSIX", key=key, value=value)), "another format"),
        "version-2": (none, armour(blob(version=2, key=key, value=value)), "another version"),
        "reserved": (none, armour(blob(key=key, reserved=b"x",
                     value=signed(private, message, reserved=b"x"))), "the reserved field is used"),
        "sha1-digest": (none, armour(blob(key=key, hash=b"sha1",
                        value=signed(private, message, hash="sha1"))), "a SHA-1 digest"),
        "md5-digest": (none, armour(blob(key=key, hash=b"md5",
                       value=signed(private, message, hash="md5"))), "an MD5 digest"),
        "rsa-sha1": (none, armour(blob(key=strong_key, value=sha1)), "RSA with SHA-1"),
        "rsa-1024": (none, armour(blob(key=weak_key, value=of_weak)), "a weak key"),
        "key-of-31-bytes": (none, armour(blob(key=string(b"ssh-ed25519") + string(bytes(31)),
                            value=value)), "no key"),
        "key-with-more": (none, armour(blob(key=key + b"x", value=value)), "a byte after the key"),
        "point-off-the-curve": (none, armour(blob(key=string(b"ecdsa-sha2-nistp256")
                                + string(b"nistp256") + string(b"\4" + bytes(64)), value=value)),
                                "no key"),
        "curve-of-another-name": (none, armour(blob(key=curve.key.blob.replace(b"p256", b"p384", 1),
                                  value=curve.value)), "a key of P-256 that says P-384"),
        "algorithm-of-another-key": (none, armour(blob(key=key, value=curve.value)), "no pair"),
        "ed25519-of-63-bytes": (none, armour(blob(key=key, value=string(b"ssh-ed25519")
                                + string(bytes(63)))), "too short"),
        "needless-zero": (none, armour(blob(key=curve.key.blob, value=string(b"ecdsa-sha2-nistp256")
                          + string(string(bytes(40) + b"\1") + natural(1)))),
                          "a number not in its shortest form"),
        "certificate": (none, certificate(keys, message), "a certificate in place of a key"),
        "namespace-git": (no, armour(blob(key=key, namespace="git",
                          value=signed(private, message, "git"))), "made for a git commit"),
        "namespace-file": (no, ssh_keygen("-Y", "sign", "-f", keys / "ed25519", "-n", "file",
                           message=message), "made for a file"),
        "namespace-of-updates": (no, armour(blob(key=key, namespace=UPDATE,
                                 value=signed(private, message, UPDATE))), "made for an update"),
        "namespace-exchanged": (no, replace(found, namespace=UPDATE).encode(),
                                "the namespace was changed afterwards"),
        "digest-exchanged": (no, replace(found, hash="sha256").encode(),
                             "the digest's name was changed afterwards"),
        "another-message": (no, armour(blob(key=key, value=signed(private, message + b"\n"))),
                            "over another manifest"),
        "another-key": (no, armour(blob(key=SshPublicKey.parse(
                        (keys / "stranger.pub").read_text()).blob, value=value)),
                        "another key than the one that signed"),
        "zero": (no, armour(blob(key=key, value=string(b"ssh-ed25519") + string(bytes(64)))),
                 "a signature of zeros"),
        "ecdsa-zero": (no, armour(blob(key=curve.key.blob, value=string(b"ecdsa-sha2-nistp256")
                       + string(natural(0) + natural(0)))), "r = s = 0"),
        "flipped": (no, replace(curve, value=bytes(last)).encode(),
                    "one bit of it"),
    }  # fmt: skip


def certificate(keys: Path, message: bytes) -> bytes:
    """A signature that names a certificate, as `ssh-keygen` makes it with KEY-cert.pub."""
    copied = shutil.copy(keys / "ed25519", keys / "certified")
    Path(copied).chmod(0o600)
    shutil.copy(keys / "ed25519.pub", keys / "certified.pub")
    ssh_keygen("-q", "-s", keys / "rsa-2048", "-I", "x", "-n", "signer", keys / "certified.pub")
    arguments = ("-f", keys / "certified-cert.pub", "-n", HANDOFF)
    return ssh_keygen("-Y", "sign", *arguments, message=message)


def make(place: Path) -> None:
    """Write all vectors."""
    handoff, update = (
        (GOLDEN / name / "mpu.yaml").read_bytes() for name in ("handoff-v1", "update-v1")
    )
    vectors: dict[str, dict[str, str]] = {}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        for name, kind in {**KINDS, "stranger": KINDS["ed25519"]}.items():
            comment = "of mpu's tests: never trust it"
            ssh_keygen("-q", *kind, "-N", "", "-C", comment, "-f", keys / name)
        for name in KINDS:
            shutil.copy(keys / f"{name}.pub", place)
            lines.append(f"signer {(place / f'{name}.pub').read_text()}")
            theirs = ssh_keygen("-Y", "sign", "-f", keys / name, "-n", HANDOFF, message=handoff)
            ours = open_signing_key(keys / name).sign(handoff, HANDOFF)
            for maker, signature in (("ssh-keygen", theirs), ("mpu", ours)):
                for where in (place, keys):
                    (where / f"{name}.{maker}.sig").write_bytes(signature)
                vectors[f"{name}.{maker}.sig"] = {"outcome": "fits", "what": f"made by {maker}"}
        for name, kind in (("sk-ed25519", SK_ED25519), ("sk-ecdsa", SK_ECDSA)):
            key, signature = security_key(kind)
            (place / f"{name}.pub").write_text(f"{key.line}\n")
            (place / f"{name}.software.sig").write_bytes(signature.encode())
            lines.append(f"signer {key.line}\n")
            vectors[f"{name}.software.sig"] = {"outcome": "fits", "what": "a security key's form"}
        (place / "allowed_signers").write_text("".join(lines))
        for name in vectors:
            accepted_by_ssh_keygen(place, place / name, handoff, HANDOFF)
            assert read_signature((place / name).read_bytes(), name).covers(handoff), name
        (place / "update.sig").write_bytes(open_signing_key(keys / "ed25519").sign(update, UPDATE))
        accepted_by_ssh_keygen(place, place / "update.sig", update, UPDATE)
        shutil.copy(keys / "ed25519", place)
        (place / "ed25519").chmod(0o644)
        good = (place / "ed25519.ssh-keygen.sig").read_bytes()
        for name, (outcome, data, what) in broken(keys, good, handoff).items():
            (place / f"broken-{name}.sig").write_bytes(data)
            vectors[f"broken-{name}.sig"] = {"outcome": outcome, "what": what}
            try:
                covers = read_signature(data, name).covers(handoff)
            except (MpuError, ValueError):
                assert outcome == "no signature", name
            else:
                assert outcome == "refused" and (name.startswith("namespace-") or not covers), name
    (place / "vectors.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    os.umask(0o022)
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
