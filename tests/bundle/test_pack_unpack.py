"""A bundle as one tar file: the same bytes everywhere, and nothing written from a hostile one."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mpu_cli.bundle.pack import pack
from mpu_cli.bundle.read import read_handoff
from mpu_cli.bundle.unpack import as_directory
from mpu_cli.errors import BadBundleError, MpuError, OutputError

GOLDEN = Path(__file__).parents[1] / "golden" / "handoff-v1"
SIGNATURE = GOLDEN.parent / "ssh" / "ed25519.ssh-keygen.sig"
GNU_TAR = (
    "tar",
    "--sort=name",
    "--owner=0",
    "--group=0",
    "--numeric-owner",
    "--mtime=@0",
    "--mode=u=rwX,go=rX",
)


@pytest.fixture
def handoff(tmp_path):
    """A handoff that a test may change."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "to-client"))


def sha256(path):
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_in(directory):
    """The files below a directory, with their bytes."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_the_same_bundle_is_packed_to_the_same_bytes(handoff, tmp_path):
    """Time, umask, modes and file times do not matter, and GNU tar gives the same bytes."""
    pack(handoff, tmp_path / "a.tar")
    for path in handoff.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700 if path.is_dir() else 0o600)
    before = os.umask(0o077)
    try:
        pack(handoff, tmp_path / "b.tar")
    finally:
        os.umask(before)
    assert sha256(tmp_path / "a.tar") == sha256(tmp_path / "b.tar")
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o644
    with tarfile.open(tmp_path / "a.tar") as archive:
        for member in archive:
            assert (
                member.uid,
                member.gid,
                member.uname,
                member.gname,
                member.mtime,
                member.pax_headers,
            ) == (0, 0, "", "", 0, {})
            assert member.mode == (0o755 if member.isdir() else 0o644)
    if (
        "GNU"
        not in subprocess.run(
            ["tar", "--version"], capture_output=True, text=True, check=False
        ).stdout
    ):
        pytest.skip("needs GNU tar to compare with")
    subprocess.run([*GNU_TAR, "-cf", "c.tar", "to-client"], cwd=tmp_path, check=True)
    assert sha256(tmp_path / "a.tar") == sha256(tmp_path / "c.tar")


def test_only_listed_files_are_packed(handoff, tmp_path):
    """A stray file in the bundle is left out; a signature is packed and unpacked."""
    (handoff / "notes.txt").write_text("mine")
    (handoff / "copy-1" / "forget.jsonl").write_text("mine")
    (handoff / "mpu.yaml.sig").write_bytes(SIGNATURE.read_bytes())
    pack(handoff, tmp_path / "a.tar")
    with as_directory(tmp_path / "a.tar") as unpacked:
        assert (unpacked / "mpu.yaml.sig").read_bytes() == SIGNATURE.read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        names = archive.getnames()
    assert "to-client/mpu.yaml.sig" in names and not any(
        "notes" in name or "forget" in name for name in names
    )


def test_packing_replaces_only_a_file_with_force(handoff, tmp_path):
    """Directories and links are never replaced, and a planted sibling is not written to."""
    target, precious = tmp_path / "x.tar", tmp_path / "precious"
    target.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        pack(handoff, target)
    assert target.read_text() == "mine"
    pack(handoff, target, force=True)
    assert tarfile.is_tarfile(target)
    precious.write_text("mine")
    (tmp_path / "link.tar").symlink_to(precious)
    (tmp_path / ".y.tar.mpu-partial").symlink_to(precious)
    (tmp_path / ".z.tar.mpu-partial").hardlink_to(precious)
    for name in ("link.tar", "y.tar", "z.tar"):
        with pytest.raises(OutputError):
            pack(handoff, tmp_path / name, force=True)
    assert precious.read_text() == "mine"


def test_an_interrupted_packing_leaves_nothing(handoff, tmp_path):
    """A failure removes the partial file; the next run replaces that of a killed run."""
    (tmp_path / ".x.tar.mpu-partial").write_text("left by a killed run")
    (handoff / "copy-2" / "model.safetensors").unlink()
    with pytest.raises(OutputError) as raised:
        pack(handoff, tmp_path / "x.tar")
    assert (
        "to-client is complete" in raised.value.hint or "model.safetensors" in raised.value.message
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-client"]


MAKERS = {
    "mpu": lambda place: pack(place / "to-client", place / "x.tar"),
    "GNU tar": lambda place: subprocess.run(
        ["tar", "-cf", "x.tar", "to-client"], cwd=place, check=True
    ),
    "GNU tar, pax": lambda place: subprocess.run(
        ["tar", "--format=pax", "-cf", "x.tar", "to-client"], cwd=place, check=True
    ),
    "GNU tar, dotted": lambda place: subprocess.run(
        ["tar", "-cf", "x.tar", "./to-client"], cwd=place, check=True
    ),
    "GNU tar, the folder above": lambda place: subprocess.run(
        ["tar", "--exclude=./x.tar", "-cf", "x.tar", "."], cwd=place, check=True
    ),
    "GNU tar, v7": lambda place: subprocess.run(
        ["tar", "--format=v7", "-cf", "x.tar", "to-client"], cwd=place, check=True
    ),
    "Python": lambda place: _by_python(place),
}


def _by_python(place):
    with tarfile.open(place / "x.tar", "w") as archive:
        archive.add(place / "to-client", "θ/to-client"[2:])


@pytest.mark.parametrize("maker", MAKERS)
def test_tar_files_of_other_programs_are_unpacked_and_removed(maker, handoff, tmp_path):
    """The directory is complete, private, beside the tar file, and always removed at the end."""
    MAKERS[maker](tmp_path)
    with as_directory(tmp_path / "x.tar") as place:
        assert place.parent == tmp_path and place.stat().st_mode & 0o777 == 0o700
        assert files_in(place) == files_in(handoff)
        read_handoff(place)
    with pytest.raises(KeyboardInterrupt), as_directory(tmp_path / "x.tar"):
        raise KeyboardInterrupt
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-client", "x.tar"]


def test_other_paths_are_yielded_unchanged(handoff, tmp_path):
    """A directory, a file that is not a tar file, a path that does not exist."""
    (tmp_path / "file").write_text("x")
    for path in (handoff, tmp_path / "file", tmp_path / "nothing"):
        with as_directory(path) as place:
            assert place == path


def test_errors_name_the_tar_file(handoff, tmp_path):
    """The private directory no longer exists when the message is read."""
    (handoff / "copy-1" / "config.json").write_bytes(
        (handoff / "copy-1" / "config.json").read_bytes().swapcase()
    )
    pack(handoff, tmp_path / "x.tar")
    with pytest.raises(BadBundleError) as raised, as_directory(tmp_path / "x.tar") as place:
        read_handoff(place)
    assert (
        raised.value.message
        == f"{tmp_path}/x.tar/copy-1/config.json: its bytes do not match mpu.yaml"
    )


def test_directories_of_killed_runs_are_removed(handoff, tmp_path):
    """A lock shows that another process still uses a directory."""
    pack(handoff, tmp_path / "x.tar")
    left = tmp_path / ".x.tar.abc.mpu-unpacked"
    left.mkdir(0o700)
    (left / "mpu.yaml").touch()
    (tmp_path / ".x.tar.link.mpu-unpacked").symlink_to(handoff, target_is_directory=True)
    fresh = tmp_path / ".x.tar.fresh.mpu-unpacked"  # of a run that has not locked it yet
    fresh.mkdir(0o700)
    with as_directory(tmp_path / "x.tar") as first, as_directory(tmp_path / "x.tar") as second:
        assert first != second and not left.exists()
        assert files_in(first) == files_in(second) == files_in(handoff)
        assert fresh.is_dir()


def test_a_tar_file_that_shrinks_while_it_is_unpacked_is_refused(handoff, tmp_path):
    """Another program writes to it meanwhile: the half-unpacked directory is removed."""
    tar = tmp_path / "x.tar"
    pack(handoff, tar)
    with (
        pytest.raises(BadBundleError) as raised,
        as_directory(tar, progress=lambda *_: os.truncate(tar, 1000)),
    ):
        pytest.fail("it was unpacked")
    assert raised.value.message.startswith(f"{tar}: ends inside copy-")
    assert raised.value.hint == "run again, and do not change the file meanwhile"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-client", "x.tar"]


def test_no_space_or_no_writable_directory(handoff, tmp_path, monkeypatch):
    """--work is used if given.

    Missing space is reported before anything is written; TMPDIR replaces a read-only directory.
    """
    pack(handoff, tmp_path / "x.tar")
    with as_directory(tmp_path / "x.tar", tmp_path / "work" / "here") as place:
        assert place.parent == tmp_path / "work" / "here"
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)
        with (
            pytest.raises(OutputError, match=r"needs 0\.0 MB, but only 0\.0 MB are free"),
            as_directory(tmp_path / "x.tar"),
        ):
            pass
        with pytest.raises(OutputError, match=r"packing .*to-client needs"):
            pack(handoff, tmp_path / "y.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["to-client", "work", "x.tar"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "work"))
    monkeypatch.setattr("tempfile.tempdir", None)
    with as_directory(tmp_path / "x.tar") as place:
        assert place.parent == tmp_path / "work"


# Hostile archives. Each is made from the members of a whole handoff.


def _member(name, data=b"", **about):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in about.items():
        setattr(member, key, value)
    return member, data


def _whole():
    found = [_member("to-client", type=tarfile.DIRTYPE)]
    for path in sorted(GOLDEN.rglob("*")):
        name = f"to-client/{path.relative_to(GOLDEN)}"
        found.append(
            _member(name, type=tarfile.DIRTYPE)
            if path.is_dir()
            else _member(name, path.read_bytes())
        )
    return found


def _archive(*more, members=None, form=tarfile.GNU_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member, data in [*(_whole() if members is None else members), *more]:
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def _without(name):
    return [(member, data) for member, data in _whole() if not member.name.endswith(name)]


def _instead(name, **about):
    return [*_without(name), _member(f"to-client/{name}", **about)]


def _patched(name, field, value):
    """One header with changed bytes and a valid checksum."""
    data = bytearray(_archive())
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        start = archive.getmember(f"to-client/{name}").offset
    data[start + field : start + field + len(value)] = value
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return bytes(data)


def _extended(size, count=1):
    """Headers of extended attributes that claim `size` bytes, `count` of them."""
    header, _ = _member("x", type=tarfile.XHDTYPE)
    header.size = size
    return header.tobuf(tarfile.GNU_FORMAT) * count


SIZE, HUGE = 124, b"\x80" + (1 << 60).to_bytes(11, "big")
BACKWARDS = (-2048).to_bytes(12, "big", signed=True)
NAMELESS = b".".ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2
"""A header up to its size."""
HOSTILE = {
    "symbolic link": (
        lambda: _archive(
            members=_instead("copy-1/config.json", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        ),
        "symbolic link",
    ),
    "link of a folder": (
        lambda: _archive(_member("to-client/copy-3", type=tarfile.SYMTYPE, linkname="../..")),
        "symbolic link",
    ),
    "hard link": (
        lambda: _archive(
            members=_instead("copy-1/config.json", type=tarfile.LNKTYPE, linkname="/etc/passwd")
        ),
        "hard link",
    ),
    "device": (
        lambda: _archive(
            members=_instead("copy-1/config.json", type=tarfile.CHRTYPE, devmajor=1, devminor=5)
        ),
        "device",
    ),
    "pipe": (
        lambda: _archive(members=_instead("copy-1/config.json", type=tarfile.FIFOTYPE)),
        "pipe",
    ),
    "unknown kind": (
        lambda: _archive(_member("to-client/copy-1/x", type=b"Z")),
        "of unknown kind",
    ),
    "parent": (lambda: _archive(_member("to-client/../escaped", b"x")), "points outside"),
    "parent of all": (lambda: _archive(_member("../escaped", b"x")), "points outside"),
    "absolute": (lambda: _archive(_member("/tmp/escaped", b"x")), "points outside"),
    "parent by an extended header": (
        lambda: _archive(
            _member("to-client/x", b"x", pax_headers={"path": "../escaped"}),
            form=tarfile.PAX_FORMAT,
        ),
        "points outside",
    ),
    "twice": (lambda: _archive(_member("to-client/mpu.yaml", b"x")), "occurs twice"),
    "twice, dotted": (lambda: _archive(_member("./to-client//mpu.yaml", b"x")), "occurs twice"),
    "folder over a file": (
        lambda: _archive(_member("to-client/mpu.yaml", type=tarfile.DIRTYPE)),
        "occurs twice",
    ),
    "two directories": (
        lambda: _archive(_member("other/x", b"x")),
        "to-client and other, expected one directory",
    ),
    "a file on top": (
        lambda: _archive(_member("x", b"x")),
        "to-client and x, expected one directory",
    ),
    "no directory": (
        lambda: _archive(members=[_member("mpu.yaml", b"x")]),
        "mpu.yaml, which is not a directory",
    ),
    "too deep": (lambda: _archive(_member("to-client/copy-1/deep/x", b"x")), "nested too deep"),
    "folder in a copy": (
        lambda: _archive(_member("to-client/copy-1/deep", type=tarfile.DIRTYPE)),
        "nested too deep",
    ),
    "not listed": (
        lambda: _archive(_member("to-client/run.sh", b"x")),
        "is not listed in mpu.yaml",
    ),
    "another folder": (
        lambda: _archive(_member("to-client/copy-9", type=tarfile.DIRTYPE)),
        "is not listed in mpu.yaml",
    ),
    "a name like a terminal code": (
        lambda: _archive(_member("to-client/\x1b[2J", b"x")),
        "is not listed in mpu.yaml",
    ),
    "a name that is not UTF-8": (
        lambda: _archive(_member("to-client/\udcff", b"x")),
        "is not listed in mpu.yaml",
    ),
    "missing file": (
        lambda: _archive(members=_without("copy-1/config.json")),
        "is listed in mpu.yaml but absent",
    ),
    "no manifest": (
        lambda: _archive(members=_without("mpu.yaml")),
        "holds no mpu.yaml: it is truncated",
    ),
    "other size": (
        lambda: _archive(members=_instead("copy-1/config.json")),
        "0 bytes, but mpu.yaml says",
    ),
    "sparse file": (
        lambda: _archive(
            members=[*_without("copy-1/config.json"), _sparse()], form=tarfile.PAX_FORMAT
        ),
        "sparse file",
    ),
    "old sparse file": (lambda: _patched("copy-1/config.json", 156, b"S"), "sparse file"),
    "huge": (lambda: _patched("copy-1/config.json", SIZE, HUGE), "ends inside"),
    "huge manifest": (lambda: _patched("mpu.yaml", SIZE, HUGE), "ends inside"),
    "negative": (lambda: _patched("copy-1/config.json", SIZE, b"\xff" * 12), ""),
    "backwards": (lambda: _patched("copy-1/config.json", SIZE, BACKWARDS), ""),
    "a file without a name": (lambda: _archive(_member(".", b"x")), "a file without a name"),
    "a file without a name, backwards": (
        lambda: _patched("copy-1/config.json", 0, NAMELESS + BACKWARDS),
        "a file without a name",
    ),
    "huge extended header": (lambda: _extended(1 << 40), "a header is too large"),
    "negative extended header": (lambda: _extended(-512), ""),
    "extended headers of extended headers": (lambda: _extended(0, 5000), "damaged"),
    "cut in a header": (lambda: _archive()[:700], "truncated"),
    "cut in a file": (lambda: _archive()[:2500], "truncated"),
    "cut in the last file": (lambda: _archive()[: -(len(_archive()) % 10240 or 10240) + 300], ""),
    "cut between files": (lambda: _archive()[:1024], "holds no mpu.yaml: it is truncated"),
    "empty": (lambda: b"", "not a tar file"),
    "zeros": (lambda: bytes(10240), "holds no mpu.yaml: it is truncated"),
    "noise": (lambda: hashlib.sha256(b"x").digest() * 400, "not a tar file"),
    "one wrong byte": (lambda: _archive()[:5] + b"!" + _archive()[6:], "not a tar file"),
}


def _sparse():
    data = b"1\n0\n1\n".ljust(512, b"\0") + b"x"
    return _member(
        "to-client/copy-1/config.json",
        data,
        pax_headers={
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.realsize": "1099511627776",
        },
    )


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_file_is_refused_before_anything_is_written(case, tmp_path):
    """One line that names it, exit 3, no file written, and little memory."""
    make, words = HOSTILE[case]
    place = tmp_path / "inbox"
    place.mkdir()
    (place / "x.tar").write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadBundleError) as raised, as_directory(place / "x.tar"):
        pytest.fail("it was unpacked")
    assert isinstance(raised.value, MpuError) and raised.value.exit_code == 3
    assert raised.value.message.startswith(f"{place}/x.tar") and words in raised.value.message, (
        raised.value.message
    )
    assert [path.name for path in place.iterdir()] == ["x.tar"] and [
        path.name for path in tmp_path.iterdir()
    ] == ["inbox"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


@pytest.mark.parametrize(
    ("limit", "words"),
    [("_MAX_MEMBERS", "more than 500 members"), ("_MAX_HEADERS", "its headers are too large")],
)
def test_the_number_of_members_and_the_size_of_headers_are_bounded(
    limit, words, tmp_path, monkeypatch
):
    """Too many members or too many bytes of headers are refused."""
    (tmp_path / "x.tar").write_bytes(
        _archive(members=[_member(f"a/{number}", type=tarfile.DIRTYPE) for number in range(600)])
    )
    monkeypatch.setattr(
        f"mpu_cli.bundle.tar_members.{limit}", 500 if limit == "_MAX_MEMBERS" else 500 * 512
    )
    with pytest.raises(BadBundleError, match=words), as_directory(tmp_path / "x.tar"):
        pass
