"""SSH signatures of manifests, against committed vectors and against the real `ssh-keygen`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flips import BITS_OF_A_BYTE, flipped_bits

from mpu_cli.bundle.read import read_bundle, verify_bundle
from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners, new_line
from mpu_cli.bundle.signatures.pins import PinnedSigners
from mpu_cli.bundle.signatures.private_key import open_signing_key
from mpu_cli.bundle.signatures.public_key import SshPublicKey
from mpu_cli.bundle.signatures.sshsig import read_signature
from mpu_cli.bundle.signatures.trust import NAMESPACES, BundleSigner, Trust
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.errors import BadBundleError, BadInputError, MpuError, SignatureError

GOLDEN = Path(__file__).parents[1] / "golden"
SSH = GOLDEN / "ssh"
MANIFEST = (GOLDEN / "handoff-v1" / "mpu.yaml").read_bytes()
VECTORS = json.loads((SSH / "vectors.json").read_text())
FITTING = [name for name, vector in VECTORS.items() if vector["outcome"] == "fits"]
HANDOFF = NAMESPACES["handoff"]
SIGNERS = AllowedSigners.read(SSH / "allowed_signers")
needs_ssh_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs ssh-keygen (openssh-client)"
)


def ssh_keygen(*arguments, message=b"", **environment):
    """Run `ssh-keygen` without a terminal."""
    return subprocess.run(
        ["ssh-keygen", *map(str, arguments)],
        input=message,
        capture_output=True,
        check=False,
        start_new_session=True,
        env={**os.environ, **environment},
    )


def verified_by_ssh_keygen(signers, signature, message=MANIFEST, principal="signer"):
    """Whether `ssh-keygen -Y verify` accepts a signature file."""
    given = ("-f", signers, "-I", principal, "-n", HANDOFF, "-s", signature)
    return ssh_keygen("-Y", "verify", *given, message=message).returncode == 0


@pytest.fixture
def key(tmp_path) -> Path:
    """The committed private key, with the mode that SSH asks for."""
    path = Path(shutil.copy(SSH / "ed25519", tmp_path / "key"))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("name", VECTORS)
def test_a_vector_has_its_outcome(name):
    """Signatures of all kinds of keys fit; broken ones give exit code 1 or 3 and one line."""
    wanted, trusted = VECTORS[name]["outcome"], TrustedBundle("to-client", Trust(SIGNERS, "signer"))
    signature = (SSH / name).read_bytes()
    if wanted == "fits":
        trusted.read_manifest(MANIFEST, signature)
        assert trusted.signer is not None and trusted.signer.principal == "signer"
        return
    with pytest.raises(MpuError) as caught:
        trusted.read_manifest(MANIFEST, signature)
    assert caught.value.exit_code == {"refused": 1, "no signature": 3}[wanted]
    assert type(caught.value) is (SignatureError if wanted == "refused" else BadBundleError)
    assert caught.value.message.startswith("to-client/mpu.yaml.sig: ") and caught.value.hint


def test_every_kind_of_key_and_both_makers_are_among_the_vectors():
    """A vector that is dropped is missed."""
    assert {name.partition(".")[0] for name in FITTING} == {
        *("ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048", "rsa-3072"),
        *("sk-ed25519", "sk-ecdsa"),
    }
    assert sum(".mpu." in name for name in FITTING) == 6
    assert sum(".ssh-keygen." in name for name in FITTING) == 6
    assert sum(name.startswith("broken-") for name in VECTORS) >= 39
    assert {path.name for path in SSH.glob("*.sig")} == {*VECTORS, "update.sig"}


@needs_ssh_keygen
def test_ssh_keygen_accepts_and_refuses_the_same_vectors():
    """What mpu accepts, it accepts. What it accepts beyond that is only another spelling."""
    accepted = {n for n in VECTORS if verified_by_ssh_keygen(SSH / "allowed_signers", SSH / n)}
    assert accepted >= set(FITTING)
    assert {
        name.removeprefix("broken-").removesuffix(".sig") for name in accepted - set(FITTING)
    } <= {
        *("no-final-newline", "windows-line-ends", "other-line-width", "text-before", "text-after"),
        *("twice", "large"),
    }


def test_ed25519_signatures_are_ssh_keygens_bit_for_bit(key):
    """The same bytes as the committed ones, by either maker, on every machine."""
    made = open_signing_key(key).sign(MANIFEST, HANDOFF)
    for maker in ("mpu", "ssh-keygen"):
        assert made == (SSH / f"ed25519.{maker}.sig").read_bytes()


@needs_ssh_keygen
@pytest.mark.parametrize("kind", [("ed25519",), ("ecdsa", "-b", "384"), ("rsa", "-b", "2048")])
def test_new_keys_work_in_both_directions(tmp_path, kind):
    """`ssh-keygen` verifies what mpu signs, and mpu what `ssh-keygen` signs."""
    ssh_keygen("-q", "-t", *kind, "-N", "", "-f", tmp_path / "new")
    signing = open_signing_key(tmp_path / "new")
    (tmp_path / "signers").write_text(f"signer {signing.key.line}\n")
    (tmp_path / "ours").write_bytes(signing.sign(MANIFEST, HANDOFF))
    assert verified_by_ssh_keygen(tmp_path / "signers", tmp_path / "ours")
    assert not verified_by_ssh_keygen(tmp_path / "signers", tmp_path / "ours", MANIFEST + b"\n")
    theirs = ssh_keygen("-Y", "sign", "-f", tmp_path / "new", "-n", HANDOFF, message=MANIFEST)
    signature = read_signature(theirs.stdout, "theirs")
    assert signature.covers(MANIFEST) and not signature.covers(MANIFEST + b"\n")
    printed = ssh_keygen("-lf", tmp_path / "new").stdout.decode()
    assert signature.key.fingerprint in printed
    assert set(signature.key.name.split()) <= set(printed.replace("(", "").replace(")", "").split())


@BITS_OF_A_BYTE
@pytest.mark.parametrize("name", ["ed25519.mpu.sig", "ecdsa-256.mpu.sig"])
def test_a_flipped_bit_is_refused(name, bits_of_a_byte):
    """Anywhere in the file, line breaks and padding included."""
    good, trust = bytearray((SSH / name).read_bytes()), Trust(SIGNERS)
    assert trust.check("x", MANIFEST, bytes(good)) is not None
    for bit in flipped_bits(len(good), bits_of_a_byte):
        good[bit // 8] ^= 1 << bit % 8
        with pytest.raises(MpuError):
            trust.check("x", MANIFEST, bytes(good))
        good[bit // 8] ^= 1 << bit % 8


def test_the_signature_comes_before_the_manifest():
    """A manifest that would be refused is not even parsed if the signature does not fit it."""
    signature = (SSH / "ed25519.mpu.sig").read_bytes()
    for data in (b"not a manifest", b"kind: !!python/object:os.system x", b"\0" * 100):
        with pytest.raises(SignatureError, match="does not fit"):
            TrustedBundle("x").read_manifest(data, signature)
        with pytest.raises(SignatureError, match="is not signed"):
            TrustedBundle("x", Trust(SIGNERS)).read_manifest(data, None)


def test_a_whole_bundle_tells_who_signed_it(tmp_path):
    """Signed, unsigned, and signed by somebody who is not allowed to."""
    handoff = Path(shutil.copytree(GOLDEN / "handoff-v1", tmp_path / "handoff"))
    assert verify_bundle(handoff).signer is None
    with pytest.raises(SignatureError, match="is not signed"):
        verify_bundle(handoff, trust=Trust(SIGNERS))
    shutil.copy(SSH / "rsa-3072.mpu.sig", handoff / "mpu.yaml.sig")
    found = verify_bundle(handoff).signer
    assert found is not None and found.principal is None
    assert found.content() == {
        "principal": None,
        "key": SshPublicKey.parse((SSH / "rsa-3072.pub").read_text()).fingerprint,
        "key_type": "RSA 3072",
        "namespace": HANDOFF,
    }
    signer = verify_bundle(handoff, trust=Trust(SIGNERS, "signer")).signer
    assert signer is not None and signer.principal == "signer"
    with pytest.raises(SignatureError, match="no key of clinic in"):
        verify_bundle(handoff, trust=Trust(SIGNERS, "clinic"))
    shutil.copy(SSH / "update.sig", handoff / "mpu.yaml.sig")
    with pytest.raises(SignatureError, match="does not fit"):
        read_bundle(handoff)


KEY = (SSH / "ed25519.pub").read_text().strip()
OTHER = (SSH / "ecdsa-256.pub").read_text().strip()
SIGNER_FILES = {
    "a name": (f"signer {KEY}", True),
    "a comment, an empty line and tabs": (f"# us\n\n\tsigner \t{KEY}\r\n", True),
    "a list with a pattern": (f"lab,sig*r {KEY}", True),
    "a question mark": (f"signe? {KEY}", True),
    "an excluded name": (f"*,!signer {KEY}", False),
    "a name in quotes": (f'"signer" {KEY}', True),
    "brackets are letters": (f"[s]igner {KEY}", False),
    "upper case": (f"SIGNER {KEY}", False),
    "another name": (f"lab {KEY}", False),
    "another key": (f"signer {OTHER}", False),
    "the second line": (f"signer {OTHER}\nsigner {KEY}", True),
    "this namespace": (f'signer namespaces="{HANDOFF}" {KEY}', True),
    "a pattern of namespaces": (f'signer namespaces="git,mpu-*" {KEY}', True),
    "another namespace": (f'signer namespaces="git" {KEY}', False),
    "options in capitals": (f'signer NameSpaces="mpu-*" {KEY}', True),
    "valid since long": (f'signer valid-after="20200101Z" {KEY}', True),
    "valid later": (f'signer valid-after="29990101" {KEY}', False),
    "over": (f'signer valid-before="20200101120000Z" {KEY}', False),
    "still valid": (f'signer valid-after="202001011200",valid-before="29990101Z" {KEY}', True),
    "no key": ("signer", None),
    "half a key": (f"signer {KEY[:40]}", None),
    "kind and key differ": (f"signer ssh-rsa {KEY.split()[1]}", None),
    "an unknown option": (f"signer no-touch-required {KEY}", None),
    "an option without quotes": (f"signer namespaces=git {KEY}", None),
    "an option twice": (f'signer namespaces="a",namespaces="b" {KEY}', None),
    "an authority": (f"signer cert-authority {KEY}", None),
    "no time": (f'signer valid-after="tomorrow" {KEY}', None),
    "the 31st of February": (f'signer valid-after="20260231Z" {KEY}', None),
    "an empty time": (f'signer valid-after="20270101Z",valid-before="20260101Z" {KEY}', None),
    "DSA": ("signer ssh-dss AAAAB3NzaC1kc3MAAACBAA==", None),
}


@pytest.mark.parametrize("name", SIGNER_FILES)
def test_a_file_of_allowed_signers_means_what_it_means_to_ssh_keygen(name, tmp_path):
    """Accepted, not accepted, or refused with the line; what mpu accepts, ssh-keygen does too."""
    text, wanted = SIGNER_FILES[name]
    path = tmp_path / "signers"
    path.write_text(f"{text}\n")
    signature = SSH / "ed25519.mpu.sig"
    if wanted is None:
        with pytest.raises(BadInputError, match=r"signers:1: ") as caught:
            AllowedSigners.read(path)
        assert caught.value.hint and "\n" not in caught.value.message
        return
    trust = Trust(AllowedSigners.read(path), "signer")
    try:
        accepted = trust.check("x", MANIFEST, signature.read_bytes()) is not None
    except SignatureError:
        accepted = False
    assert accepted == wanted
    if shutil.which("ssh-keygen"):
        assert verified_by_ssh_keygen(path, signature) == wanted


def test_a_hostile_file_of_allowed_signers_takes_no_time(tmp_path):
    """Patterns that make naive matching exponential, long lines, a pipe, a terabyte."""
    started = time.process_time()
    stars = AllowedSigners.parse(f"{'*a' * 5000}b {KEY}\n".encode(), "signers")
    assert not stars.lines[0].names("a" * 255)
    with pytest.raises(BadInputError, match="signers:1: a line of more than 32 kB"):
        AllowedSigners.parse(f"{'x' * 40_000} {KEY}\n".encode(), "signers")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="a pipe or a device"):
        AllowedSigners.read(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(BadInputError, match="larger than 1 MiB"):
        AllowedSigners.read(tmp_path / "sparse")
    assert time.process_time() - started < 2


def test_a_line_that_mpu_writes_can_be_read(tmp_path):
    """Also for a name with a space, by ssh-keygen too."""
    key = SshPublicKey.parse(KEY)
    for name in ("clinic", "St. Mary's, no".replace(",", ""), "Universitätsspital"):
        path = tmp_path / "signers"
        path.write_text(new_line(name, HANDOFF, key, "first used"))
        (line,) = AllowedSigners.read(path).lines
        assert line.key == key and line.names(name) and line.is_for(HANDOFF)
        assert not line.names("other") and not line.is_for("git")
        if shutil.which("ssh-keygen"):
            assert verified_by_ssh_keygen(path, SSH / "ed25519.mpu.sig", principal=name)


def signer(name: str) -> BundleSigner:
    """The owner of a committed key."""
    return BundleSigner(SshPublicKey.parse((SSH / f"{name}.pub").read_text()), HANDOFF)


def never(*_: object) -> bool:
    """Nobody may ask."""
    raise AssertionError("asked about a key although one is pinned")


def test_a_pinned_key_stays(tmp_path):
    """First use pins; then unsigned or another key is refused, and nothing is asked again."""
    pins = PinnedSigners(tmp_path / "new" / "signers", HANDOFF)
    first, other, asked = signer("ed25519"), signer("ecdsa-256"), list[tuple[object, ...]]()

    def decide(*question: object) -> bool:
        asked.append(question)
        return len(asked) > 1

    assert pins.accept("h", "owner", None, never) is None
    with pytest.raises(SignatureError, match="not known as owner's"):
        pins.accept("h", "owner", first, decide)
    assert not pins.path.exists()
    accepted = pins.accept("h", "owner", first, decide)
    assert accepted is not None and accepted.principal == "owner"
    assert asked == [("h", "owner", first)] * 2
    assert pins.path.stat().st_mode & 0o777 == 0o600
    assert pins.accept("h", "owner", first, never) == accepted
    with pytest.raises(SignatureError, match="is not signed"):
        pins.accept("h", "owner", None, never)
    with pytest.raises(SignatureError, match="no key of owner in"):
        pins.accept("h", "owner", other, never)
    assert pins.accept("h", "another owner", other, decide) is not None
    assert len(pins.read().lines) == 2


def test_a_pin_for_another_purpose_is_none(tmp_path):
    """A line for git, or for updates, says nothing about handoffs; a line for all purposes does."""
    pins = PinnedSigners(tmp_path / "signers", HANDOFF)
    pins.path.write_text(f'owner namespaces="git" {KEY}\n')
    assert pins.accept("h", "owner", None, never) is None
    pins.path.write_text(f"owner {KEY}\n")
    with pytest.raises(SignatureError, match="is not signed"):
        pins.accept("h", "owner", None, never)


def test_a_file_of_pins_that_others_can_change_is_refused(tmp_path):
    """Writable by the group or by all, a link, a folder, or with a broken line."""
    pins = PinnedSigners(tmp_path / "signers", HANDOFF)
    pins.path.write_text(f"owner {KEY}\n")
    for mode in (0o620, 0o602):
        pins.path.chmod(mode)
        with pytest.raises(BadInputError, match="other users can write"):
            pins.read()
    pins.path.unlink()
    pins.path.symlink_to(SSH / "allowed_signers")
    with pytest.raises(BadInputError, match="not a regular file"):
        pins.read()
    pins.path.unlink()
    pins.path.mkdir()
    with pytest.raises(BadInputError, match="not a regular file"):
        pins.read()


def test_an_expired_pin_still_refuses(tmp_path):
    """Otherwise the end of its time would open the door for everybody."""
    pins = PinnedSigners(tmp_path / "signers", HANDOFF)
    pins.path.write_text(f'owner valid-before="20200101Z" {KEY}\n')
    for who in (None, signer("ed25519"), signer("ecdsa-256")):
        with pytest.raises(SignatureError):
            pins.accept("h", "owner", who, never)
    assert AllowedSigners.read(pins.path).lines[0].valid_before == datetime(2020, 1, 1, tzinfo=UTC)


def test_a_private_key_that_others_can_read_is_refused(key):
    """As ssh does."""
    key.chmod(0o640)
    with pytest.raises(BadInputError, match="other users can read") as caught:
        open_signing_key(key)
    assert str(key) in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "hello\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_what_is_no_key_is_refused_in_one_line(tmp_path, text):
    """By mpu, or by ssh-keygen."""
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadInputError, match="key") as caught:
        open_signing_key(path)
    assert caught.value.hint and "\n" not in caught.value.message


@needs_ssh_keygen
def test_a_key_with_a_passphrase_signs_through_the_agent_only(tmp_path, monkeypatch):
    """Without the agent it is refused at once, before any work, and no passphrase is asked for."""
    path = tmp_path / "key"
    ssh_keygen("-q", "-t", "ed25519", "-N", "geheim", "-f", path)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    for given in (path, path.with_suffix(".pub")):
        with pytest.raises(BadInputError, match="ssh-keygen cannot sign with this key") as caught:
            open_signing_key(given)
        assert f"ssh-add {path}" in str(caught.value.hint)
    socket = tmp_path / "agent"
    with subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL
    ) as agent:
        try:
            while not socket.exists():
                time.sleep(0.01)
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
            (tmp_path / "ask").write_text("#!/bin/sh\necho geheim\n")
            (tmp_path / "ask").chmod(0o700)
            asking = {"SSH_ASKPASS": str(tmp_path / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(
                ["ssh-add", str(path)],
                env={**os.environ, **asking},
                check=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
            for given in (path, path.with_suffix(".pub")):
                signature = open_signing_key(given).sign(MANIFEST, HANDOFF)
                assert read_signature(signature, "agent").covers(MANIFEST)
        finally:
            agent.kill()


def test_without_ssh_keygen_a_plain_key_still_signs(key, tmp_path, monkeypatch):
    """And a .pub file is refused with the remedy."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert open_signing_key(key).sign(MANIFEST, HANDOFF)
    with pytest.raises(BadInputError, match="not installed"):
        open_signing_key(SSH / "ed25519.pub")
