"""`--sign`, `--allowed-signers` and pinned keys, between two parties."""

from __future__ import annotations

import io
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rounds import QUICK

from mpu_cli.bundle.sign import sign_finished
from mpu_cli.bundle.signatures.pins import PinnedSigners
from mpu_cli.bundle.signatures.private_key import open_signing_key
from mpu_cli.bundle.signatures.public_key import SshPublicKey
from mpu_cli.bundle.signatures.trust import NAMESPACES, BundleSigner
from mpu_cli.cli import signing as options
from mpu_cli.errors import BadInputError, SignatureError

SSH = Path(__file__).parents[1] / "golden" / "ssh"
FINGERPRINT = SshPublicKey.parse((SSH / "ed25519.pub").read_text()).fingerprint


@pytest.fixture(autouse=True)
def trust_file(tmp_path, monkeypatch) -> Path:
    """The client's own file, not that of whoever runs the tests."""
    monkeypatch.setenv("MPU_TRUST_FILE", str(tmp_path / "trust"))
    return tmp_path / "trust"


@pytest.fixture
def key(tmp_path) -> Path:
    """A private key."""
    path = Path(shutil.copy(SSH / "ed25519", tmp_path / "key"))
    path.chmod(0o600)
    return path


def stranger(tmp_path) -> Path:
    """Another private key."""
    path = tmp_path / "stranger"
    if not path.exists():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH)
        path.write_bytes(
            Ed25519PrivateKey.generate().private_bytes(*form, serialization.NoEncryption())
        )
        path.chmod(0o600)
    return path


def sign(bundle: Path, key: Path) -> None:
    """Sign a bundle that is there already."""
    sign_finished(bundle, open_signing_key(key))


@pytest.fixture
def back(own_round, tmp_path):
    """`back("--flag", …)`: the words of `diff` on an untrained handoff, into a new directory."""
    trained = Path(
        shutil.copytree(
            own_round.handoff, tmp_path / "trained", ignore=lambda *_: ["mpu.yaml", "mpu.yaml.sig"]
        )
    )
    made = []

    def words(*more: object) -> tuple[object, ...]:
        made.append(tmp_path / f"back-{len(made)}")
        return ("diff", own_round.handoff, trained, "--out", made[-1], *more)

    return words


def test_a_signed_round(mpu, own_round, key, tmp_path, trust_file, monkeypatch):
    """Each party pins the other's key once; tar files carry the signatures."""
    r = own_round
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(r.secret)
    shutil.rmtree(r.handoff)
    given = ("--base", r.base, "-m", 2, "--kappa", "0.01", "--client", "clinic")
    places = ("--handoff", r.handoff, "--secret", r.secret, "--pack", "h.tar")
    made = mpu("perturb", r.model, *given, *places, "--sign", key, "--json")
    assert made.code == 0 and made.json["signed_with"] == FINGERPRINT, made.err
    told = mpu("verify", "h.tar", "--json").json["signature"]
    assert told == {
        "principal": None,
        "key": FINGERPRINT,
        "key_type": "ED25519",
        "namespace": "mpu-handoff-v1",
    }
    assert f"signed with ED25519 {FINGERPRINT}" in mpu("inspect", "h.tar").out.replace("\n", " ")
    rows = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    work = ("unlearn", "h.tar", *rows, "--out", "u", "--pack", "u.tar", "--sign", key)
    refused = mpu(*work)
    assert refused.code == 1 and "not known as model-owner's" in refused.err
    assert "--trust-on-first-use" in refused.err and not Path("u").exists()
    trained = mpu(*work, "--trust-on-first-use")
    assert trained.code == 0, trained.err
    assert f"The handoff is signed by model-owner (ED25519 {FINGERPRINT})." in trained.out
    assert trust_file.read_text().startswith('model-owner namespaces="mpu-handoff-v1" ssh-ed25519 ')
    server = ("--secret", r.secret, "--model", r.model, "--out")
    assert mpu("aggregate", "u.tar", *server, "next").code == 1
    assert not (r.secret / "allowed_signers").exists()
    done = mpu("aggregate", "u.tar", *server, "next", "--trust-on-first-use", "--json")
    assert done.code == 0, done.err
    assert done.json["signatures"][0]["principal"] == "clinic"
    pins = r.secret / "allowed_signers"
    assert pins.read_text().startswith('clinic namespaces="mpu-update-v1" ssh-ed25519 ')
    assert pins.stat().st_mode & 0o777 == 0o600
    assert mpu("verify", r.secret).code == 0
    again = mpu("aggregate", "u.tar", *server, "again")
    assert again.code == 0 and "signed by clinic" in again.out.replace("\n", " "), again.err


def test_a_pinned_client_must_sign(mpu, own_round, key, tmp_path):
    """Unsigned and otherwise signed updates are refused with exit code 1; nothing is written."""
    r = own_round
    server = ("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out")
    unsigned = mpu(*server, tmp_path / "free")
    assert unsigned.code == 0 and "not signed" in unsigned.out
    line = f'client namespaces="mpu-update-v1" {(SSH / "ed25519.pub").read_text()}'
    (r.secret / "allowed_signers").write_text(line)
    (r.secret / "allowed_signers").chmod(0o600)
    out = tmp_path / "out"
    for break_it, message in (
        (lambda: None, "is not signed, but client in"),
        (lambda: sign(r.update, stranger(tmp_path)), "no key of client in"),
        (lambda: (r.update / "mpu.yaml.sig").write_text("x"), "not an SSH signature"),
        (lambda: shutil.copy(SSH / "update.sig", r.update / "mpu.yaml.sig"), "does not fit"),
    ):
        break_it()
        for more in ((), ("--trust-on-first-use",)):
            done = mpu(*server, out, *more)
            assert done.code == (3 if "not an SSH" in message else 1), done.err
            assert message in done.err and not out.exists()
    (r.update / "mpu.yaml.sig").unlink()
    sign(r.update, key)
    assert mpu(*server, out).code == 0


def test_allowed_signers_name_the_client(mpu, own_round, key, tmp_path):
    """A key of another client in the same file is not enough, and nothing is pinned."""
    r, allowed = own_round, tmp_path / "allowed"
    sign(r.update, key)
    server = ("aggregate", r.update, "--secret", r.secret, "--model", r.model, "--out")
    public = (SSH / "ed25519.pub").read_text()
    for name, code in (("another", 1), ("client", 0), ("cl*", 0)):
        allowed.write_text(f"{name} {public}")
        done = mpu(
            *server, tmp_path / f"out-{name[:2]}-{code}-{len(name)}", "--allowed-signers", allowed
        )
        assert done.code == code, done.err
    assert not (r.secret / "allowed_signers").exists()
    both = mpu(*server, tmp_path / "x", "--allowed-signers", allowed, "--trust-on-first-use")
    assert both.code == 2
    (r.secret / "allowed_signers").write_text("nonsense\n")
    for words in (("verify", r.secret), ("inspect", r.secret), (*server, tmp_path / "x")):
        done = mpu(*words)
        assert done.code == 3 and "allowed_signers:1: " in done.err, words


def test_a_pinned_model_owner_must_sign(mpu, own_round, key, tmp_path, back, trust_file):
    """The client's trust file; another owner has another name."""
    unsigned = mpu(*back())
    assert unsigned.code == 0 and "The handoff is not signed." in unsigned.out
    sign(own_round.handoff, key)
    assert mpu(*back()).code == 1
    first = mpu(*back("--trust-on-first-use", "--sign", key, "--json"))
    assert first.code == 0 and first.json["signed_with"] == FINGERPRINT
    assert first.json["handoff_signature"]["principal"] == "model-owner"
    assert mpu(*back()).code == 0
    sign(own_round.handoff, stranger(tmp_path))
    refused = mpu(*back("--trust-on-first-use"))
    assert refused.code == 1 and "no key of model-owner in" in refused.err
    assert mpu(*back("--signer", "other", "--trust-on-first-use")).code == 0
    assert len(trust_file.read_text().splitlines()) == 2
    (own_round.handoff / "mpu.yaml.sig").unlink()
    refused = mpu(*back())
    assert refused.code == 1 and "is not signed, but model-owner in" in refused.err
    allowed = tmp_path / "allowed"
    allowed.write_text(f"vendor {(SSH / 'ed25519.pub').read_text()}")
    assert mpu(*back("--allowed-signers", allowed)).code == 1
    sign(own_round.handoff, key)
    assert mpu(*back("--allowed-signers", allowed)).code == 0
    assert mpu(*back("--allowed-signers", allowed, "--signer", "vendor")).code == 0
    assert mpu(*back("--allowed-signers", allowed, "--signer", "model-owner")).code == 1
    assert mpu(*back("--signer", "a,b")).code == 2


@pytest.mark.parametrize(
    ("answer", "code"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("no\n", 1), ("", 1)]
)
def test_a_first_key_is_asked_about_on_a_terminal(
    mpu, own_round, key, back, tmp_path, monkeypatch, answer, code
):
    """Of the client and of the server; only yes pins it."""
    monkeypatch.setattr(options, "can_ask", lambda: True)
    monkeypatch.setattr("mpu_cli.cli.commands.aggregate.can_ask", lambda: True)
    r = own_round
    sign(r.handoff, key)
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    done = mpu(*back())
    assert done.code == code and FINGERPRINT in done.err and "[y/N]" in done.err
    if answer in {"y\n", ""}:
        sign(r.update, key)
        monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
        server = ("--secret", r.secret, "--model", r.model, "--out", tmp_path / "next")
        done = mpu("aggregate", r.update, *server)
        assert done.code == code and "Is it the key of client" in done.err
        assert (r.secret / "allowed_signers").exists() == (code == 0)


def test_copies_made_alone_are_signed_at_the_end(mpu, own_round, key, tmp_path):
    """--sign belongs to --finish; a finished update can be signed by the same command later."""
    r, out = own_round, tmp_path / "spread"
    shutil.copytree(r.update, out)
    rows = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    alone = mpu("unlearn", r.handoff, *rows, "--copy", "1", "--out", out, "--sign", key)
    assert alone.code == 2 and "give it with --finish" in alone.err
    finish = ("unlearn", r.handoff, "--finish", "--out", out)
    assert mpu(*finish).code == 0 and not (out / "mpu.yaml.sig").exists()
    done = mpu(*finish, "--sign", key, "--json")
    assert done.code == 0 and done.json["signed_with"] == FINGERPRINT, done.err
    assert mpu("verify", out, "--json").json["signature"]["key"] == FINGERPRINT
    assert sorted(path.name for path in out.iterdir()) == [
        *("copy-1", "copy-2", "mpu.yaml", "mpu.yaml.sig")
    ]


def test_options_of_signatures_without_a_handoff_are_usage_errors(mpu, own_round, key, tmp_path):
    """A model is not signed."""
    r = own_round
    rows = ("--forget", r.forget, "--retain", r.retain, *QUICK, "--out", tmp_path / "m")
    for more in (
        ("--sign", key),
        ("--allowed-signers", key),
        ("--signer", "x"),
        ("--trust-file", key),
        ("--trust-on-first-use",),
    ):
        done = mpu("unlearn", r.model, *rows, *more)
        assert done.code == 2 and more[0] in done.err and "is not a handoff" in done.err
    assert mpu("verify", r.handoff, "--signer", "x").code == 2


def test_a_bad_key_is_refused_before_the_work(mpu, own_round, key, tmp_path):
    """Not after hours of training: nothing is written."""
    r = own_round
    rows = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    key.chmod(0o644)
    for bad in (key, tmp_path / "absent", r.forget, tmp_path):
        done = mpu("unlearn", r.handoff, *rows, "--out", tmp_path / "u", "--sign", bad)
        assert done.code == 3 and str(bad) in done.err and not (tmp_path / "u").exists()
        done = mpu("perturb", r.model, "--base", r.base, "--handoff", tmp_path / "h", "--secret",
                   r.secret, "--sign", bad)  # fmt: skip
        assert done.code == 3 and not (tmp_path / "h").exists()


def test_a_reissued_handoff_is_signed_again(mpu, own_round, key, tmp_path):
    """The same bytes, since Ed25519 has no randomness."""
    r = own_round
    sign(r.handoff, key)
    id_ = mpu("inspect", r.handoff, "--json").json["id"]
    again = ("--handoff", tmp_path / "h", "--secret", r.secret, "--reissue", id_)
    assert mpu("perturb", r.model, *again, "--sign", key).code == 0
    for name in ("mpu.yaml", "mpu.yaml.sig"):
        assert (tmp_path / "h" / name).read_bytes() == (r.handoff / name).read_bytes()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_ssh_keygen_alone_can_check_a_bundle(own_round, key, tmp_path):
    """As the page says: with the manifest on standard input."""
    sign(own_round.handoff, key)
    allowed = tmp_path / "allowed"
    allowed.write_text(f"vendor {(SSH / 'ed25519.pub').read_text()}")
    with (own_round.handoff / "mpu.yaml").open("rb") as manifest:
        done = subprocess.run(
            [
                *("ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "vendor"),
                *("-n", "mpu-handoff-v1", "-s", own_round.handoff / "mpu.yaml.sig"),
            ],
            stdin=manifest,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0 and FINGERPRINT in done.stdout


def test_json_of_inspect_tells_the_signature(mpu, own_round, key):
    """Of both kinds of bundle; null without one."""
    for bundle in (own_round.handoff, own_round.update):
        assert mpu("inspect", bundle, "--json").json["signature"] is None
        sign(bundle, key)
        told = json.loads(mpu("inspect", bundle, "--json").out)["signature"]
        assert told["key"] == FINGERPRINT and told["principal"] is None
        (bundle / "mpu.yaml").write_bytes((bundle / "mpu.yaml").read_bytes() + b"\n")
        assert mpu("inspect", bundle).code == 1


def test_two_processes_pin_one_key_of_a_name(key, tmp_path, trust_file):
    """The second one to say yes is refused, whatever it has seen before."""
    keys = [open_signing_key(path).key for path in (key, stranger(tmp_path))]
    namespace = NAMESPACES["handoff"]
    pins = PinnedSigners(trust_file, namespace)
    pins.add("model-owner", BundleSigner(keys[0], namespace))
    pins.add("model-owner", BundleSigner(keys[0], namespace))
    with pytest.raises(SignatureError, match="was pinned meanwhile"):
        pins.add("model-owner", BundleSigner(keys[1], namespace))
    assert len(trust_file.read_text().splitlines()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_trust_file_of_another_user_is_refused(trust_file):
    """Its owner could choose whom this user trusts."""
    trust_file.write_text("")
    os.chown(trust_file, 4321, -1)
    for folder in trust_file.parents:
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o755)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setuid(1234)
            PinnedSigners(trust_file, NAMESPACES["handoff"]).read()
        except BadInputError as error:
            code = 0 if "belongs to another user" in error.message else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
