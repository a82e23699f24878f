"""Sign a model that leaves to the world: a bundle of OpenSSF Model Signing (OMS 1.0).

`model.sig` is a Sigstore bundle (v0.3) with a DSSE envelope. Its payload is an in-toto statement
that lists the SHA-256 of every file. https://github.com/ossf/model-signing-spec; the package
`model-signing` verifies it, and nobody needs a network for that.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.bundle.signatures.private_key import refuse_readable_by_others
from mpu_cli.checkpoint.digest import Progress, file_digest
from mpu_cli.checkpoint.inventory import MARKER
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadInputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

FILE = "model.sig"
_MAX_BYTES = 64 << 10
_PAYLOAD = "application/vnd.in-toto+json"
_MAKE_ONE = "make a key: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"


_CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""P-256, P-384 and P-521; not secp256k1, which has 256 bits too."""


@dataclass(frozen=True, slots=True)
class ModelSigningKey:
    """An elliptic-curve key that signs models."""

    private: EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> ModelSigningKey:
        """Read a private key.

        Args:
            path: a PEM file with a key on P-256, P-384 or P-521, without a passphrase.

        Raises:
            BadInputError: no such key, or other users can read it.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = read_file(path, _MAX_BYTES, BadInputError, _MAKE_ONE)
        if b"PRIVATE KEY-----" in data:
            refuse_readable_by_others(path)
        try:
            key = load_pem_private_key(data, None)
        except TypeError as error:
            raise BadInputError(
                f"{path}: is protected by a passphrase", f"give a key without one; {_MAKE_ONE}"
            ) from error
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadInputError(f"{path}: not a private key in PEM", _MAKE_ONE) from error
        if not isinstance(key, EllipticCurvePrivateKey) or key.curve.name not in _CURVES:
            raise BadInputError(
                f"{path}: models are signed with a key on P-256, P-384 or P-521", _MAKE_ONE
            )
        return cls(key)

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature (DER), with the hash that belongs to the curve."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA

        kinds = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
        return self.private.sign(data, ECDSA(kinds[self.private.curve.key_size]))

    @property
    def hint(self) -> str:
        """SHA-256 of the public key's PEM, by which a verifier finds it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        public = self.private.public_key()
        pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(pem).hexdigest()


def write_model_signature(
    directory: Path, name: str, key: ModelSigningKey, progress: Progress = lambda *_: None
) -> None:
    """Write `model.sig` over all files of a model directory that is not yet in place.

    Args:
        directory: the model.
        name: what the statement calls it.
        key: signs it.
        progress: gets (what, files done, files in total).
    """
    files = sorted(
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    digests = []
    for done, file in enumerate(files):
        progress("signing", done, len(files))
        digests.append(file_digest(directory / file))
    payload = _json(_statement(name, dict(zip(files, digests, strict=True))))
    signature = key.sign(_pre_authentication(payload))
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key.hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    write_new(directory / FILE, _json(bundle))


def _statement(name: str, digests: dict[str, str]) -> dict[str, Any]:
    """The in-toto statement: the files' digests, and one digest over them in their order."""
    root = hashlib.sha256(b"".join(map(bytes.fromhex, digests.values()))).hexdigest()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                # mpu's list of the files it wrote comes last, and is of no use elsewhere.
                "ignore_paths": [FILE, MARKER],
            },
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": digest}
                for file, digest in digests.items()
            ],
        },
    }


def _pre_authentication(payload: bytes) -> bytes:
    """What DSSE signs: the kind of the payload, its length, and the payload."""
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True).encode()
