"""`aggregate --sign-model`: OpenSSF Model Signing, checked by hand and by its package."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from mpu_cli.checkpoint.inventory import MARKER
from mpu_cli.checkpoint.locate import Located
from mpu_cli.errors import BadInputError
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.model_signature import ModelSigningKey
from mpu_cli.server.aggregation.settings import AggregateSettings

GOLDEN = Path(__file__).parents[1] / "golden"


def written(path: Path, private, encryption=None) -> Path:
    """A private key in PEM, and its public key beside it."""
    path.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            encryption or serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(private.public_key().public_bytes(*form))
    return path


@pytest.fixture
def key(tmp_path) -> Path:
    """A key on P-256."""
    return written(tmp_path / "key.pem", ec.generate_private_key(ec.SECP256R1()))


@pytest.fixture
def signed(tmp_path, key) -> Path:
    """The golden update, aggregated and signed."""
    secret = shutil.copytree(GOLDEN / "secret-v1", tmp_path / "secret")
    aggregate(
        [GOLDEN / "update-v1"],
        secret,
        Located(GOLDEN / "model-v1", None),
        tmp_path / "model-next",
        AggregateSettings(),
        model_key=ModelSigningKey.read(key),
    )
    return tmp_path / "model-next"


def statement(model: Path, public: Path) -> dict:
    """The statement in `model.sig`, after its signature was verified."""
    bundle = json.loads((model / "model.sig").read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    envelope = bundle["dsseEnvelope"]
    payload, kind = base64.b64decode(envelope["payload"]), envelope["payloadType"]
    (signature,) = envelope["signatures"]
    key = serialization.load_pem_public_key(public.read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    data = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    key.verify(base64.b64decode(signature["sig"]), data, ec.ECDSA(hashes.SHA256()))
    hint = bundle["verificationMaterial"]["publicKey"]["hint"]
    assert hint == hashlib.sha256(public.read_bytes()).hexdigest()
    return json.loads(payload)


def test_the_statement_lists_every_file(signed, key):
    """With its SHA-256, sorted; only the signature and mpu's own list are left out."""
    said = statement(signed, key.with_suffix(".pub"))
    resources = {item["name"]: item["digest"] for item in said["predicate"]["resources"]}
    present = {path.name for path in signed.iterdir()}
    assert set(resources) == present - {"model.sig", MARKER}
    assert {"model.safetensors", "config.json", "README.md"} <= set(resources)
    assert list(resources) == sorted(resources)
    for name, digest in resources.items():
        assert hashlib.sha256((signed / name).read_bytes()).hexdigest() == digest
    root = hashlib.sha256(b"".join(map(bytes.fromhex, resources.values()))).hexdigest()
    assert said["subject"] == [{"name": "model-next", "digest": {"sha256": root}}]
    other = written(key.with_name("other.pem"), ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(InvalidSignature):
        statement(signed, other.with_suffix(".pub"))


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("model_signing") is None, reason="needs model_signing (pip install model-signing)"
)
def test_the_package_of_openssf_verifies_it(signed, key):
    """As it is, not with another key, and not after one bit has changed."""

    def verifies(public: Path) -> bool:
        words = ("model_signing", "verify", "key", signed, "--signature", signed / "model.sig")
        done = subprocess.run([*map(str, words), "--public_key", public], capture_output=True)
        return done.returncode == 0

    other = written(key.with_name("other.pem"), ec.generate_private_key(ec.SECP256R1()))
    assert verifies(key.with_suffix(".pub"))
    assert not verifies(other.with_suffix(".pub"))
    weights = signed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert not verifies(key.with_suffix(".pub"))


def test_what_cannot_sign_a_model_is_refused(tmp_path, key):
    """RSA, a passphrase, no key, a key that others can read."""
    encrypted = serialization.BestAvailableEncryption(b"geheim")
    made = ec.generate_private_key(ec.SECP256R1())
    bad = {
        written(tmp_path / "rsa", rsa.generate_private_key(65537, 2048)): "P-256",
        written(tmp_path / "k1", ec.generate_private_key(ec.SECP256K1())): "P-256",
        written(tmp_path / "protected", made, encrypted): "passphrase",
        GOLDEN / "handoff-v1" / "mpu.yaml": "not a private key",
        tmp_path / "absent": "no such file",
    }
    for path, message in bad.items():
        with pytest.raises(BadInputError, match=message) as caught:
            ModelSigningKey.read(path)
        assert str(path) in caught.value.message and caught.value.hint
    key.chmod(0o644)
    with pytest.raises(BadInputError, match="other users can read"):
        ModelSigningKey.read(key)
