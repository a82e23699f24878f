"""A round that passes only tar files, and what --pack refuses."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from rounds import QUICK

from mpu_cli.bundle.pack import pack


@pytest.fixture
def tars(own_round):
    """The round, with its handoff and its update as tar files beside their directories."""
    for bundle in (own_round.handoff, own_round.update):
        pack(bundle, bundle.with_suffix(".tar"))
    return own_round


def left_in(directory):
    """Hidden files that a command left."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def test_tar_files_give_the_results_of_directories(mpu, own_round, tmp_path, monkeypatch):
    """The same update and model. The output names the tar files, and nothing unpacked is left."""
    r = own_round
    place = r.model.parent
    monkeypatch.chdir(place)
    shutil.rmtree(r.secret)
    given = (
        "--base",
        r.base,
        "-m",
        2,
        "--kappa",
        "0.01",
        "--handoff",
        "to-client-2",
        "--secret",
        "server",
    )
    made = mpu("perturb", "model", *given, "--pack", "h.tar")
    assert made.code == 0, made.err
    assert "send  h.tar  to" in made.out and "mpu unlearn h.tar --forget" in made.out
    shutil.move("to-client-2", tmp_path / "kept")
    assert mpu("verify", "h.tar", "--expect", "handoff", "--json").json["path"] == "h.tar"
    told = mpu("inspect", "h.tar")
    assert told.code == 0 and "unpacked" not in told.out
    assert mpu("inspect", "h.tar", "--json").json == mpu(
        "inspect", tmp_path / "kept", "--json"
    ).json | {"path": "h.tar"}
    rows = ("--forget", r.forget, "--retain", r.retain, *QUICK)
    trained = mpu("unlearn", "h.tar", *rows, "--out", "u", "--pack", "u.tar")
    assert trained.code == 0, trained.err
    assert "send  u.tar  back" in trained.out and "mpu verify u.tar --expect update" in trained.out
    assert mpu("unlearn", tmp_path / "kept", *rows, "--out", "u-2", "--json").json["packed"] == []
    assert Path("u/mpu.yaml").read_bytes() == Path("u-2/mpu.yaml").read_bytes()
    again = mpu("unlearn", "h.tar", "--finish", "--out", "u-2", "--pack", "u-2.tar", "--json")
    assert again.json["packed"] == ["u-2.tar"]
    assert mpu("verify", "u.tar", "--expect", "update").code == 0
    assert mpu("inspect", "u.tar", "--json").json["path"] == "u.tar"
    for number, update in enumerate(("u.tar", "u-2")):
        done = mpu(
            "aggregate", update, "--secret", "server", "--model", "model", "--out", f"next-{number}"
        )
        assert done.code == 0, done.err
    assert (
        Path("next-0/model.safetensors").read_bytes()
        == Path("next-1/model.safetensors").read_bytes()
    )
    assert left_in(place) == []


def test_diff_takes_and_gives_tar_files(mpu, tars, tmp_path):
    """The update of unchanged copies, from a packed handoff."""
    trained = tmp_path / "trained"
    shutil.copytree(tars.handoff, trained)
    given = ("--out", tmp_path / "update", "--pack", tmp_path / "sent" / "update.tar")
    done = mpu("diff", tars.handoff.with_suffix(".tar"), trained, *given)
    assert done.code == 0, done.err
    assert (
        f"send  {tmp_path}/sent/update.tar  back" in done.out
        and f"mpu verify {tmp_path}/sent/update.tar" in done.out
    )
    assert mpu("verify", tmp_path / "sent" / "update.tar", "--expect", "update").code == 0


def test_each_holder_of_a_split_gets_its_own_file(mpu, own_round, tmp_path):
    """The name is the holder's, and no file of the others is in it."""
    r = own_round
    given = (
        "--base",
        r.base,
        "--handoff",
        tmp_path / "split",
        "--secret",
        r.secret,
        "-m",
        2,
        "--split",
        "--pack",
        tmp_path / "h.tar",
    )
    done = mpu("perturb", r.model, *given, "--json")
    assert done.json["packed"] == [f"{tmp_path}/h-holder-{number}.tar" for number in (1, 2)]
    for number in (1, 2):
        with tarfile.open(tmp_path / f"h-holder-{number}.tar") as archive:
            assert {name.partition("/")[0] for name in archive.getnames()} == {f"holder-{number}"}


def test_a_packed_handoff_names_no_user_and_no_time(mpu, own_round, tmp_path):
    """No data of the machine is in the tar file, and packing again gives the same bytes."""
    r = own_round
    handoff = next((r.secret / "handoffs").iterdir()).stem
    files = []
    for name in ("a", "b"):
        place = tmp_path / name / "to-client"
        given = (
            "--handoff",
            place,
            "--secret",
            r.secret,
            "--reissue",
            handoff,
            "--pack",
            tmp_path / name / "h.tar",
        )
        assert mpu("perturb", r.model, *given, "--json").json["packed"] == [
            f"{tmp_path}/{name}/h.tar"
        ]
        files.append((tmp_path / name / "h.tar").read_bytes())
    assert files[0] == files[1]
    headers = bytearray(files[0])
    with tarfile.open(tmp_path / "a" / "h.tar") as archive:
        for member in archive:
            headers[member.offset_data : member.offset_data + member.size] = bytes(member.size)
    names = {
        os.environ.get("USER", ""),
        Path.home().name,
        os.uname().nodename,
        str(tmp_path),
        r.model.parent.name,
    } - {""}
    assert not [name for name in names if name.encode() in headers]


REFUSED = {
    "no tar file": (
        lambda r, tmp: (
            "diff",
            r.handoff,
            r.handoff,
            "--out",
            tmp / "n",
            "--pack",
            tmp / "n.tar.gz",
        ),
        2,
        "not the name of a tar file",
    ),
    "the flag that packs texts": (
        lambda r, tmp: ("unlearn", r.handoff, "--forget", r.forget, "--pack", "--out", tmp / "n"),
        2,
        "--packing",
    ),
    "in the bundle": (
        lambda r, tmp: (
            "diff",
            r.handoff,
            r.handoff,
            "--out",
            tmp / "n",
            "--pack",
            tmp / "n" / "n.tar",
        ),
        2,
        "inside it, or contains it",
    ),
    "in the secret": (
        lambda r, tmp: (
            "perturb",
            r.model,
            "--base",
            r.base,
            "--secret",
            r.secret,
            "--handoff",
            tmp / "n",
            "--pack",
            r.secret / "n.tar",
        ),
        2,
        "inside it, or contains it",
    ),
    "exists": (
        lambda r, tmp: (
            "diff",
            r.handoff,
            r.handoff,
            "--out",
            tmp / "n",
            "--pack",
            tmp / "there.tar",
        ),
        3,
        "there.tar: exists",
    ),
    "one copy": (
        lambda r, tmp: (
            "unlearn",
            r.handoff,
            "--forget",
            r.forget,
            "--copy",
            1,
            "--out",
            tmp / "n",
            "--pack",
            tmp / "n.tar",
        ),
        2,
        "give it with --finish",
    ),
    "a model": (
        lambda r, tmp: (
            "unlearn",
            r.model,
            "--forget",
            r.forget,
            "--out",
            tmp / "n",
            "--pack",
            tmp / "n.tar",
        ),
        2,
        "is not a handoff",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_pack_is_refused_before_any_work(case, mpu, tars, tmp_path):
    """One line and a hint; nothing is written or replaced."""
    make, code, words = REFUSED[case]
    (tmp_path / "there.tar").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    done = mpu(*make(tars, tmp_path))
    assert done.code == code and words in done.err, done.err
    assert [line.split(" ")[1] for line in done.err.splitlines()] == ["error:", "hint:"]
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "there.tar").read_text() == "mine"


def test_a_disk_without_room_for_the_tar_file_keeps_the_update(mpu, tars, small_disk, tmp_path):
    """The directory is complete, the disk clean, and the hint's command packs the same bytes."""
    out, target = tmp_path / "update", small_disk / "u.tar"
    done = mpu("diff", tars.handoff, tars.handoff, "--out", out, "--pack", target)
    assert done.code == 3
    error, hint = done.err.splitlines()
    assert error.startswith(f"mpu: error: {small_disk}: packing {out} needs ") and error.endswith(
        " are free"
    )
    assert hint.startswith(f"mpu: hint: {out} is complete; pack it elsewhere with tar --sort=name ")
    assert [path.name for path in small_disk.iterdir()] == ["filler"]
    assert mpu("verify", out, "--expect", "update").code == 0
    subprocess.run(hint.partition(" elsewhere with ")[2], shell=True, check=True, cwd=tmp_path)
    pack(out, tmp_path / "own.tar")
    assert (tmp_path / "u.tar").read_bytes() == (tmp_path / "own.tar").read_bytes()


def test_a_wrong_tar_file_is_named_as_it_was_given(mpu, tars):
    """An update in place of a handoff, and a damaged file: messages name the tar file."""
    update = tars.update.with_suffix(".tar")
    done = mpu(
        "unlearn",
        update,
        "--forget",
        tars.forget,
        "--method",
        "GradAscent",
        "--out",
        tars.model.parent / "n",
    )
    assert done.code == 3 and done.err.startswith(
        f"mpu: error: {update}: is an update, expected a handoff"
    ), done.err
    data = bytearray(tars.handoff.with_suffix(".tar").read_bytes())
    data[data.index(b"vocab_size")] ^= 1
    update.write_bytes(bytes(data))
    done = mpu("verify", update, "--json")
    assert (done.code, done.json["error"]["message"]) == (
        3,
        f"{update}/copy-1/config.json: its bytes do not match mpu.yaml",
    )
    assert left_in(update.parent) == []


def test_a_reference_may_be_a_tar_file_and_is_unpacked_in_work(mpu, tars, tmp_path):
    """NPO with a packed reference gives the result of the directory."""
    given = (
        "--forget",
        tars.forget,
        "--retain",
        tars.retain,
        "--max-steps",
        1,
        "--batch-size",
        4,
        "--method",
        "NPO",
    )
    digests = []
    for name, kind in (("a", ""), ("b", ".tar")):
        source = tars.handoff.with_suffix(kind)
        done = mpu(
            "unlearn",
            source,
            "--reference",
            source,
            *given,
            "--out",
            tmp_path / name,
            "--work",
            tmp_path / "work",
        )
        assert done.code == 0, done.err
        digests.append((tmp_path / name / "mpu.yaml").read_bytes())
    assert digests[0] == digests[1]
    assert (
        left_in(tars.handoff.parent) == []
        and not list(tmp_path.glob("work/*"))
        and not list(tmp_path.glob("work/.*"))
    )


def test_eval_of_a_packed_update_and_handoff(mpu, tars):
    """The numbers are those of the directories, and nothing unpacked is left."""
    rows = ("--forget", tars.forget, "--no-generate", "--metric", "answer_probability", "--json")
    found = []
    for kind in ("", ".tar"):
        done = mpu(
            "eval",
            tars.update.with_suffix(kind),
            "--handoff",
            tars.handoff.with_suffix(kind),
            *rows,
        )
        assert done.code == 0, done.err
        found.append(done.json["values"])
    assert found[0] == found[1]
    assert left_in(tars.handoff.parent) == []


def test_several_processes_need_a_directory(tars, environment):
    """Each would unpack the file; the hint has the command that unpacks it once."""
    tar = tars.handoff.with_suffix(".tar")
    launched = environment | {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }
    command = [
        sys.executable,
        "-m",
        "mpu_cli",
        "unlearn",
        str(tar),
        "--forget",
        str(tars.forget),
        "--out",
        "n",
        "--json",
    ]
    done = subprocess.run(
        command, env=launched, cwd=tar.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["error"]["hint"] == f"unpack it first: tar -xf {tar}"


def test_a_run_that_lacked_one_of_its_tar_files_is_completed(own_round, mpu, tmp_path):
    """The same perturb makes the missing file and keeps the other; a foreign one is refused."""
    r, out = own_round, tmp_path / "split"
    words = ("perturb", r.model, "--base", r.base, "--new-lineage", tmp_path / "s", "-m", 2)
    words += ("--split", "--handoff", out, "--pack", tmp_path / "sent.tar")
    assert mpu(*words).code == 0
    first, second = (tmp_path / f"sent-holder-{number}.tar" for number in (1, 2))
    before = [path.read_bytes() for path in (first, second)]
    again = mpu(*words)
    assert again.code == 3 and "nothing is left to do" in again.err
    second.unlink()
    kept = first.stat().st_ino
    again = mpu(*words)
    assert again.code == 0 and "a tar file was missing" in again.err, again.err
    assert first.stat().st_ino == kept
    assert [path.read_bytes() for path in (first, second)] == before
    second.unlink()
    first.write_bytes(b"something of the user's own")
    again = mpu(*words)
    assert again.code == 3 and f"{first}: exists" in again.err
    assert first.read_bytes() == b"something of the user's own" and not second.exists()
