"""`mpu mask`: keys, groups and masked updates on the command line."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from rounds import FORGET, QUICK, RETAIN


@pytest.fixture
def members(own_round, mpu, tmp_path, monkeypatch):
    """A directory with a round, the keys of three members and their group file."""
    monkeypatch.chdir(own_round.handoff.parent)
    for name in ("lab", "clinic", "archive"):
        assert mpu("mask", "key", "--out", f"{name}.key").code == 0
    lines = [f"{name}.key.pub" for name in ("lab", "clinic", "archive")]
    assert mpu("mask", "group", *lines, "--out", "group.txt").code == 0
    return own_round


def masked(mpu, name, out, *more, update="to-server", group="group.txt"):
    """`mpu mask update` of one member."""
    files = ("--handoff", "to-client", "--group", group, "--key", f"{name}.key", "--out", out)
    return mpu("mask", "update", update, *files, *more)


def test_keys_and_groups(members, mpu):
    """A key is the owner's alone; a group's digest depends on its keys and on nothing else."""
    assert stat.S_IMODE(Path("lab.key").stat().st_mode) == 0o600
    private = Path("lab.key").read_text()
    assert private.startswith("-----BEGIN PRIVATE KEY-----")
    name, public = Path("lab.key.pub").read_text().split()
    assert (name, len(public)) == ("lab", 44)
    again = mpu("mask", "key", "--out", "lab.key")
    assert (again.code, Path("lab.key").read_text()) == (3, private)
    assert again.err == "mpu: error: lab.key.pub: exists\nmpu: hint: choose another path\n"
    shown = mpu("mask", "group", "group.txt", "--key", "lab.key", "--json").json
    (own,) = [one for one in shown["members"] if one["number"] == shown["member"]]
    assert own == {"number": shown["member"], "name": "lab", "public_key": public}
    text = Path("group.txt").read_text()
    renamed = "# our group\n\n" + "\n".join(reversed(text.replace("lab", "x").splitlines()))
    Path("renamed.txt").write_text(renamed + "   # the archive\n")
    assert mpu("mask", "group", "renamed.txt", "--json").json["digest"] == shown["digest"]
    Path("fewer.txt").write_text("\n".join(text.splitlines()[:2]))
    assert mpu("mask", "group", "fewer.txt", "--json").json["digest"] != shown["digest"]
    spoken = mpu("mask", "group", "group.txt", "-q").out.strip()
    assert spoken.replace(" ", "") == shown["digest"][:32]
    assert spoken in mpu("mask", "group", "group.txt").out


def test_a_group_on_the_command_line(members, mpu):
    """Three members, one with a tar file; verify, inspect, eval and aggregate say what it is."""
    first = masked(mpu, "lab", "masked-lab", "--json")
    assert first.json["members"] == 3
    assert 0 < first.json["largest"] < 0.1
    assert masked(mpu, "clinic", "masked-clinic", "--pack", "masked-clinic.tar").code == 0
    shown = masked(mpu, "archive", "masked-archive").out
    assert "send  masked-archive  to the server, and never to-server" in shown
    assert "one mpu aggregate command with the masked updates of all 3 members" in shown
    number, digest = first.json["member"], first.json["group"]
    everything = b"".join(path.read_bytes() for path in Path("masked-lab").rglob("*.*"))
    told = (b"lab", b"clinic", b"archive", b"group.txt", bytes(Path.cwd()), b"to-server")
    assert not [word for word in told if word in everything]
    looked = mpu("inspect", "masked-lab", "--json").json
    assert looked["mask"] == {"group": digest, "member": number, "members": 3}
    assert {copy["payload"] for copy in looked["copies"]} == {"masked"}
    assert "only the sum of all members' updates can be read" in mpu("inspect", "masked-lab").out
    assert mpu("verify", "masked-clinic.tar").out == (
        f"masked-clinic.tar: masked update, 2 files match, member"
        f" {mpu('inspect', 'masked-clinic.tar', '--json').json['mask']['member']} of 3;"
        " not signed\n"
    )
    rows = ("--handoff", "to-client", "--forget", "forget.jsonl", "--retain", "retain.jsonl")
    alone = mpu("eval", "masked-lab", *rows)
    assert alone.code == 1
    assert alone.err.splitlines()[-2:] == [
        "mpu: error: masked-lab: is masked: only the sum of all members' updates can be read",
        "mpu: hint: give the update from which mpu mask made it",
    ]
    files = ("--secret", "server", "--model", "model", "--out", "next")
    missing = mpu("aggregate", "masked-lab", "masked-clinic.tar", *files)
    assert missing.code == 1
    assert "of the 3 members of its mask group 1 are missing" in missing.err
    together = ("aggregate", "masked-lab", "masked-clinic.tar", "masked-archive", *files)
    assert mpu(*together, "--json").json["mask_groups"] == [{"digest": digest, "members": 3}]
    shown = mpu(*together[:-2], "--out", "shown").out
    assert re.search(r"updates +3 \(3 masked ones as one sum\), \d cop", shown)
    replay = mpu(*together[:-2], "--out", "later", "--model", "next")
    assert (replay.code, "(replay)" in replay.err) == (1, True)


def test_a_second_update_under_the_same_masks_is_refused(members, mpu):
    """The first one may be written again; another one only for another group, with a warning."""
    assert masked(mpu, "lab", "first").code == 0
    assert masked(mpu, "lab", "second").code == 0
    first, second = (Path(name, "copy-1", "masked.safetensors") for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert stat.S_IMODE(Path("lab.key.used").stat().st_mode) == 0o600
    other = ("unlearn", "to-client", "--forget", "forget.jsonl", "--retain", "retain.jsonl", *QUICK)
    assert mpu(*other, "--seed", "5", "--out", "other").code == 0
    Path("elsewhere").mkdir()
    Path("elsewhere", "lab.key").symlink_to(Path("lab.key").absolute())
    linked = masked(mpu, "elsewhere/lab", "third", update="other")
    assert (linked.code, Path("third").exists()) == (1, False)
    refused = masked(mpu, "lab", "third", update="other")
    assert (refused.code, Path("third").exists()) == (1, False)
    assert refused.err.splitlines()[-2:] == [
        (
            "mpu: error: lab.key: has already masked another update for this handoff and group: the"
            " server could subtract the two and read the difference"
        ),
        (
            "mpu: hint: send the first one; for another update ask for a new handoff, or all"
            " members make new keys and mask again"
        ),
    ]
    pair = ("lab.key.pub", "clinic.key.pub", "--out", "pair.txt")
    assert mpu("mask", "group", *pair).code == 0
    allowed = masked(mpu, "lab", "third", update="other", group="pair.txt")
    assert allowed.code == 0
    assert "this key has masked an update of the same handoff for another group" in allowed.err
    assert "each member can subtract its own update" in allowed.err


BAD_FILES = {
    "no such key": ("absent.key: no such file or directory", "mpu mask key made"),
    "a pipe": ("pipe: not a regular file", "mpu mask key made"),
    "not a key": ("forget.jsonl: holds no private key in PEM form", "mpu mask key made"),
    "another kind": ("ed.key: holds a key of another kind than X25519", "mpu mask key made"),
    "encrypted": ("locked.key: is encrypted", "openssl pkey"),
    "not a member": ("is not in group.txt", "have it added"),
    "a private key": ("lab.key: holds a private key", "wrote beside it"),
    "a bad line": ("bad.txt:2: not a name and a public key", "NAME PUBLIC-KEY"),
    "a name twice": ("twice.txt:2: lab is given twice", "member's line once"),
    "a key twice": ("same.txt:2: b has the same key as a", "its own key"),
    "alone": ("alone.txt: a group has 2 to 256 members, not 1", "all members"),
    "a weak key": ("weak.txt:2: not a usable X25519 key", "ask clinic to make a new one"),
    "masked already": ("masked: is masked already", "mpu unlearn or mpu diff"),
    "another handoff": ("to-server was not made from other-client", "trained on"),
}


@pytest.mark.parametrize("fault", BAD_FILES)
def test_bad_input_is_named(members, mpu, fault):
    """One line with the file and one with a remedy, exit code 3 or 1, and nothing is written."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    update, handoff, group, key = "to-server", "to-client", "group.txt", "lab.key"
    public = Path("lab.key.pub").read_text().split()[1]
    if fault == "no such key":
        key = "absent.key"
    elif fault == "a pipe":
        subprocess.run(["mkfifo", "pipe"], check=True)
        key = "pipe"
    elif fault == "not a key":
        key = "forget.jsonl"
    elif fault in {"another kind", "encrypted"}:
        locked = fault == "encrypted"
        private = X25519PrivateKey.generate() if locked else Ed25519PrivateKey.generate()
        lock = form.BestAvailableEncryption(b"x") if locked else form.NoEncryption()
        key = "locked.key" if locked else "ed.key"
        data = private.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, lock)
        Path(key).write_bytes(data)
    elif fault == "not a member":
        key = "stranger.key"
        assert mpu("mask", "key", "--out", key).code == 0
    elif fault == "a private key":
        group = "lab.key"
    elif fault in {"a bad line", "a name twice", "a key twice", "alone", "a weak key"}:
        group, text = {
            "a bad line": ("bad.txt", f"lab {public}\nclinic {public[:-1]}\n"),
            "a name twice": ("twice.txt", f"lab {public}\nlab {public}\n"),
            "a key twice": ("same.txt", f"a {public}\nb {public}\n"),
            "alone": ("alone.txt", f"lab {public}\n"),
            "a weak key": ("weak.txt", f"lab {public}\nclinic {'A' * 43}=\n"),
        }[fault]
        Path(group).write_text(text)
    elif fault == "masked already":
        assert masked(mpu, "lab", "masked").code == 0
        update = "masked"
    else:
        handoff = "other-client"
        words = ("--base", "base", "--secret", "server", "-m", "2", "--check", "none")
        assert mpu("perturb", "model", *words, "--handoff", handoff).code == 0
    files = ("--handoff", handoff, "--group", group, "--key", key, "--out", "bad-out")
    done = mpu("mask", "update", update, *files)
    message, remedy = BAD_FILES[fault]
    assert done.code == (1 if fault == "another handoff" else 3), done.err
    error, hint = done.err.splitlines()[-2:]
    assert error.startswith("mpu: error: ") and message in error
    assert hint.startswith("mpu: hint: ") and remedy in hint
    assert not Path("bad-out").exists()


def test_a_key_that_others_can_read_is_warned_of(members, mpu):
    """And a damaged list of uses is refused."""
    Path("lab.key").chmod(0o644)
    assert (
        "warning: lab.key: other users of this machine can read it"
        in mpu("mask", "group", "group.txt", "--key", "lab.key").err
    )
    assert Path("lab.key").stat().st_mode & 0o777 == 0o600
    Path("lab.key.used").write_text("nothing\n")
    done = masked(mpu, "lab", "out")
    assert done.code == 3
    assert "lab.key.used: not a list of masked updates" in done.err


@pytest.mark.slow
def test_three_parties_in_three_directories(tiny_pair, tmp_path, environment):
    """Real processes, real training, other rows each: the model is that of the plain updates' sum.

    Nothing but public keys, one handoff and masked updates passes between the directories.
    """
    pair = tiny_pair("llama")

    def mpu(place, *words):
        command = [sys.executable, "-m", "mpu_cli", *map(str, words)]
        done = subprocess.run(
            command, cwd=tmp_path / place, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    server = tmp_path / "server"
    for name, path in (("model", pair.model), ("base", pair.base)):
        shutil.copytree(path, server / name)
    noise = ("--base", "base", "--secret", "secret", "--handoff", "to-client", "--kappa", "0.01")
    mpu("server", "perturb", "model", *noise)
    names = ("lab", "clinic", "archive")
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        shutil.copytree(server / "to-client", tmp_path / name / "to-client")
        for kind, rows in (("forget", FORGET), ("retain", RETAIN)):
            text = "".join(json.dumps(row) + "\n" for row in rows[number::3] * 2)
            (tmp_path / name / f"{kind}.jsonl").write_text(text)
        mpu(name, "mask", "key", "--out", "own.key", "--name", name)
    for name in names:
        for other in names:
            shutil.copy(tmp_path / other / "own.key.pub", tmp_path / name / f"{other}.pub")
        mpu(name, "mask", "group", *(f"{one}.pub" for one in names), "--out", "group.txt")
        rows = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", *QUICK)
        mpu(name, "unlearn", "to-client", *rows, "--out", "to-server")
        own = ("--handoff", "to-client", "--group", "group.txt", "--key", "own.key")
        mpu(name, "mask", "update", "to-server", *own, "--out", "masked")
        shutil.copytree(tmp_path / name / "masked", server / f"masked-{name}")
    files = ("--secret", "secret", "--model", "model")
    mpu("server", "aggregate", *(f"masked-{one}" for one in names), *files, "--out", "next")
    from two_parties import difference, relative, take_back

    moved = difference(server / "next", server / "model")
    plain = []
    for name in names:  # what the server would have got without masks, one by one
        out, secret = tmp_path / f"plain-{name}", tmp_path / f"secret-{name}"
        shutil.copytree(server / "secret", secret)
        take_back(tmp_path / name / "to-server", secret, server / "model", out)
        plain.append(difference(out, server / "model"))
    total = {name: sum(change[name] for change in plain) for name in plain[0]}
    assert relative(moved, {name: value for name, value in total.items() if value.any()}) < 1e-4
