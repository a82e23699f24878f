"""SSH's public keys, and whether one of them made a signature.

The kinds that `ssh-keygen` makes: Ed25519, ECDSA on the NIST curves, RSA with SHA-2, and the two
kinds of security keys (FIDO). Not DSA, not RSA with SHA-1 or below 2048 bits, no certificates.
`cryptography` does the arithmetic; it is imported late, because inspecting needs none of it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpu_cli.bundle.signatures.wire import WireReader

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.hashes import HashAlgorithm

ED25519, RSA = "ssh-ed25519", "ssh-rsa"
SK_ED25519, SK_ECDSA = "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com"
CURVES = {f"ecdsa-sha2-nistp{size}": size for size in (256, 384, 521)}
RSA_SHA2 = ("rsa-sha2-256", "rsa-sha2-512")
_NAMES = {
    ED25519: "ED25519",
    SK_ED25519: "ED25519-SK",
    SK_ECDSA: "ECDSA-SK 256",
    **{kind: f"ECDSA {size}" for kind, size in CURVES.items()},
}
_RSA_BITS = range(2048, 16384 + 1)
_LARGEST_EXPONENT = 1 << 64


@dataclass(frozen=True, slots=True)
class SshPublicKey:
    """A key that was checked to be of a supported kind."""

    blob: bytes
    """Its encoding, which is compared as a whole."""
    kind: str
    """`ssh-ed25519` and so on."""
    name: str
    """Kind and size as `ssh-keygen -l` prints them: ED25519, ECDSA 256, RSA 3072."""

    @classmethod
    def read(cls, blob: bytes) -> SshPublicKey:
        """Read a key.

        Raises:
            ValueError: malformed, weak, or of another kind; the text says why.
        """
        kind = WireReader(blob).text()
        if kind == RSA:
            return cls(blob, kind, f"RSA {_rsa(blob).key_size}")
        if kind not in _NAMES:
            remedy = "mpu takes ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa and security keys"
            raise ValueError(f"a key of kind {kind[:60]!r} is not supported: {remedy}")
        if "ecdsa" in kind:
            _curve_point(blob)
        else:
            _ed25519(blob)
        return cls(blob, kind, _NAMES[kind])

    @classmethod
    def parse(cls, words: str) -> SshPublicKey:
        """Read `KIND BASE64 [COMMENT]`, as in a `.pub` file.

        Raises:
            ValueError: see `read`; or it does not have this form.
        """
        parts = words.split(None, 2)
        try:
            blob = base64.b64decode(parts[1], validate=True)
        except (IndexError, binascii.Error) as error:
            raise ValueError("it is not of the form: ssh-ed25519 AAAA…") from error
        key = cls.read(blob)
        if key.kind != parts[0]:
            raise ValueError(f"it says {parts[0][:60]!r} and holds a key of kind {key.kind!r}")
        return key

    @property
    def fingerprint(self) -> str:
        """SHA256:… as `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """`KIND BASE64`."""
        return f"{self.kind} {base64.b64encode(self.blob).decode()}"

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made a signature (in SSH's encoding) of exactly these bytes.

        Raises:
            ValueError: the signature is malformed, or of an algorithm that is not this key's.
        """
        from cryptography.exceptions import InvalidSignature

        reader = WireReader(signature)
        algorithm, value = reader.text(), reader.string()
        if algorithm not in (RSA_SHA2 if self.kind == RSA else (self.kind,)):
            weak = " (RSA with SHA-1)" if algorithm == RSA else ""
            raise ValueError(f"a {self.name} key signed with {algorithm[:60]!r}{weak}")
        if self.kind in {SK_ED25519, SK_ECDSA}:
            # The device signs its application, a flag whether it was touched, and its counter too.
            flags_and_counter = reader.take(5)
            application = hashlib.sha256(_application(self.blob)).digest()
            data = application + flags_and_counter + hashlib.sha256(data).digest()
        reader.done()
        try:
            self._verify(algorithm, value, data)
        except InvalidSignature:
            return False
        return True

    def _verify(self, algorithm: str, value: bytes, data: bytes) -> None:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, padding
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        if self.kind == RSA:
            hashed = hashes.SHA256() if algorithm == RSA_SHA2[0] else hashes.SHA512()
            _rsa(self.blob).verify(value, data, padding.PKCS1v15(), hashed)
        elif "ecdsa" in self.kind:
            numbers = WireReader(value)
            r, s = numbers.natural(), numbers.natural()
            numbers.done()
            signature = encode_dss_signature(r, s)
            _curve_point(self.blob).verify(signature, data, ec.ECDSA(hash_of(self.kind)))
        else:
            if len(value) != 64:
                raise ValueError("an Ed25519 signature has 64 bytes")
            Ed25519PublicKey.from_public_bytes(_ed25519(self.blob)).verify(value, data)


def hash_of(kind: str) -> HashAlgorithm:
    """The hash that ECDSA uses on the curve of a kind of key (RFC 5656, section 6.2.1)."""
    from cryptography.hazmat.primitives import hashes

    size = CURVES.get(kind, 256)
    return {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[size]


def _application(blob: bytes) -> bytes:
    """The last field of a security key's public key: what the key was made for, "ssh:"."""
    reader = WireReader(blob)
    fields = 3 if reader.text() == SK_ED25519 else 4
    return [reader.string() for _ in range(fields - 1)][-1]


def _ed25519(blob: bytes) -> bytes:
    reader = WireReader(blob)
    kind, key = reader.text(), reader.string()
    if kind == SK_ED25519:
        reader.string()
    reader.done()
    if len(key) != 32:
        raise ValueError("an Ed25519 key has 32 bytes")
    return key


def _curve_point(blob: bytes) -> EllipticCurvePublicKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    reader = WireReader(blob)
    kind, curve, point = reader.text(), reader.text(), reader.string()
    if kind == SK_ECDSA:
        reader.string()
    reader.done()
    size = CURVES.get(kind, 256)
    if curve != f"nistp{size}" or point[:1] != b"\x04":
        raise ValueError(f"it is not a point on the curve of {kind!r}")
    curves = {256: ec.SECP256R1(), 384: ec.SECP384R1(), 521: ec.SECP521R1()}
    return ec.EllipticCurvePublicKey.from_encoded_point(curves[size], point)


def _rsa(blob: bytes) -> RSAPublicKey:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

    reader = WireReader(blob)
    reader.text()
    exponent, modulus = reader.natural(), reader.natural()
    reader.done()
    bits = modulus.bit_length()
    if bits not in _RSA_BITS or exponent >= _LARGEST_EXPONENT:
        raise ValueError(f"an RSA key of {bits} bits; mpu takes 2048 to 16384")
    return RSAPublicNumbers(exponent, modulus).public_key()
