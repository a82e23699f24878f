"""Directories are written atomically."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpu_cli.bundle.manifest import (
    FileEntry,
    HandoffManifest,
    PublishedCopy,
    UpdateCopy,
    UpdateManifest,
    encode,
)
from mpu_cli.checkpoint.inventory import MARKER, written_by_mpu
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BusyError, OutputError, UsageError


def _fill(staging: Staging, text: str = "new") -> None:
    (staging.path / "file").write_text(text)


def _tree(path: Path) -> set[str]:
    return {str(item.relative_to(path)) for item in path.rglob("*")}


def _write(target: Path, files: dict[str, str], *, marked: bool = True) -> None:
    """A command's result, with a list of its files unless one of them is a manifest."""
    with Staging(target, marked=marked) as staging:
        for name, text in files.items():
            (staging.path / name).parent.mkdir(parents=True, exist_ok=True)
            (staging.path / name).write_text(text)
        staging.commit()


def _manifest(kind: str, copies: dict[str, list[str]]) -> str:
    """`mpu.yaml` of a handoff or an update whose copies hold these files."""
    entries = {
        copy: {name: FileEntry("ab" * 32, 3) for name in names} for copy, names in copies.items()
    }
    if kind == "handoff":
        published = tuple(PublishedCopy(copy, files) for copy, files in entries.items())
        return encode(
            HandoffManifest("cd" * 16, "float32", ("model.*", "lm_head.weight"), published)
        ).decode()
    changed = tuple(UpdateCopy(copy, "ef" * 32, "delta", files) for copy, files in entries.items())
    return encode(UpdateManifest("cd" * 16, "ab" * 32, changed)).decode()


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def test_a_committed_directory_is_complete(tmp_path):
    """After commit the target holds the files, and no sibling is left."""
    with Staging(tmp_path / "out") as staging:
        _fill(staging)
        assert not (tmp_path / "out").exists()
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_an_error_leaves_no_files_and_no_created_parents(tmp_path):
    """Parents that existed before stay."""
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), Staging(tmp_path / "there" / "a" / "b" / "out") as staging:
        _fill(staging)
        raise RuntimeError
    assert _tree(tmp_path) == {"there"}


def test_parents_of_a_committed_target_are_created(tmp_path):
    """A deep target needs no mkdir."""
    with Staging(tmp_path / "a" / "b" / "out") as staging:
        _fill(staging)
        staging.commit()
    assert (tmp_path / "a" / "b" / "out" / "file").read_text() == "new"


def test_parents_are_removed_when_the_directory_itself_cannot_be_made(tmp_path, monkeypatch):
    """A failure at the start leaves no empty parents."""
    original = Path.mkdir

    def full(self: Path, *args: object, **options: object) -> None:
        if self.name.endswith(".mpu-partial"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", full)
    with pytest.raises(OutputError, match="disk is full"), Staging(tmp_path / "a" / "b" / "out"):
        pass
    assert _tree(tmp_path) == set()


def test_a_target_that_is_not_empty_is_refused(tmp_path):
    """The message names the target, the hint a way out; nothing changes."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(OutputError) as caught, Staging(tmp_path / "out"):
        pass
    assert str(tmp_path / "out") in caught.value.message
    assert "--force" in (caught.value.hint or "")
    assert _tree(tmp_path) == {"out", "out/old"}


@pytest.mark.parametrize("force", [False, True])
def test_a_target_that_is_a_file_or_a_link_is_refused_even_with_force(tmp_path, force):
    """--force replaces directories only."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "broken"):
        with (
            pytest.raises(OutputError, match="not a directory"),
            Staging(tmp_path / name, force=force),
        ):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_target_is_replaced_without_force(tmp_path):
    """A directory that a script created with mkdir is fine."""
    (tmp_path / "out").mkdir()
    with Staging(tmp_path / "out") as staging:
        _fill(staging)
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_force_replaces_a_directory_as_a_whole(tmp_path):
    """No old file survives, and the old directory is removed."""
    _write(tmp_path / "out", {"copy-1/old": "old", "file": "old"})
    with Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        assert (tmp_path / "out" / "copy-1" / "old").exists()
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_a_failed_replacement_keeps_the_old_directory(tmp_path):
    """With --force the old directory stays until the new one is complete."""
    _write(tmp_path / "out", {"config.json": "old"})
    with pytest.raises(RuntimeError), Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        raise RuntimeError
    assert _tree(tmp_path) == {"out", "out/config.json", f"out/{MARKER}"}


def test_an_interrupted_replacement_restores_the_old_directory(tmp_path, monkeypatch):
    """Ctrl-C between the two renames."""
    _write(tmp_path / "out", {"config.json": "old"})
    original = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".mpu-partial"):
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        staging.commit()
    monkeypatch.undo()
    assert _tree(tmp_path) == {"out", "out/config.json", f"out/{MARKER}"}


def test_force_replaces_only_what_mpu_wrote(tmp_path):
    """A home directory given by mistake survives, and so does any directory that holds a secret."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with (
        pytest.raises(OutputError, match="has no file list from mpu"),
        Staging(tmp_path / "home", force=True),
    ):
        pass
    (tmp_path / "out" / "deep" / "server").mkdir(parents=True)
    (tmp_path / "out" / "mpu.yaml").write_text("")
    (tmp_path / "out" / "deep" / "server" / "secret.yaml").write_text("")
    with pytest.raises(
        OutputError, match="deep/server: is a secret directory, which mpu never overwrites"
    ):
        refuse_existing(tmp_path / "out", force=True)


@pytest.mark.parametrize("target", ["in", "in/deep/out", ".", "link/out", "in/../in"])
def test_a_result_inside_or_around_its_input_is_refused(tmp_path, target):
    """With --force the input would be destroyed; links and dots do not hide it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(UsageError, match="inside it, or contains it"):
        refuse_nesting(tmp_path / target, tmp_path / "in")
    refuse_nesting(tmp_path / "input", tmp_path / "in")


def test_a_partial_left_by_a_crash_is_cleaned_by_the_next_run(tmp_path):
    """Files, folders and links of a killed run do not get into the next result."""
    partial = tmp_path / ".out.mpu-partial"
    (partial / "copy-9").mkdir(parents=True)
    (partial / "copy-9" / "stale").write_text("stale")
    (partial / "link").symlink_to(tmp_path)
    with Staging(tmp_path / "out") as staging:
        assert _tree(staging.path) == set()
        _fill(staging)
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_two_processes_cannot_write_the_same_target(tmp_path):
    """The second gets BusyError and does not disturb the first."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom mpu_cli.checkpoint.staging import Staging\nfrom"
        " mpu_cli.errors import BusyError\ntry:\n  with Staging(Path(sys.argv[1])): pass\nexcept"
        " BusyError as error:\n  print(error.message); sys.exit(error.exit_code)"
    )
    with Staging(tmp_path / "deep" / "out") as staging:
        _fill(staging)
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "deep" / "out"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (other.returncode, other.stderr) == (BusyError.exit_code, "")
        assert "another mpu process is writing it" in other.stdout
        staging.commit()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "new"


def test_another_target_may_be_written_at_the_same_time(tmp_path):
    """The lock is on the target, not on its parent: make -j writes copies in parallel."""
    with Staging(tmp_path / "one") as one, Staging(tmp_path / "two") as two:
        for staging in (one, two):
            _fill(staging)
            staging.commit()
    assert _tree(tmp_path) == {"one", "one/file", "two", "two/file"}


@pytest.mark.parametrize(
    ("umask", "private", "expected"),
    [(0o077, False, 0o755), (0o000, False, 0o755), (0o000, True, 0o700)],
)
def test_modes_do_not_depend_on_the_umask(tmp_path, umask, private, expected):
    """Public directories are 0755, private ones 0700; files keep their modes."""
    with _umask(umask), Staging(tmp_path / "out", private=private) as staging:
        write_new(staging.path / "public", b"")
        write_new(staging.path / "secret", b"", 0o600)
        assert staging.path.stat().st_mode & 0o777 == 0o700
        staging.commit()
    assert (tmp_path / "out").stat().st_mode & 0o777 == expected
    assert (tmp_path / "out" / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_one_readable_line(tmp_path):
    """ENOSPC names the target and has a hint; other errors name the file."""
    with pytest.raises(OutputError) as caught, disk_errors(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message == f"{tmp_path / 'out'}: the disk is full; nothing of it was kept"
    assert caught.value.exit_code == 3
    with (
        pytest.raises(OutputError, match="Permission denied") as caught,
        disk_errors(tmp_path / "out"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/x")
    assert caught.value.message.startswith("/root/x: ")


def test_a_target_below_a_file_is_refused(tmp_path):
    """A parent that is a file cannot become a directory; nothing is left."""
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError), Staging(target):
            pass
    refuse_existing(tmp_path / "free")
    assert _tree(tmp_path) == {"file"}


def test_errors_name_the_target(tmp_path):
    """Messages show the target in place of its hidden sibling."""
    with (
        pytest.raises(OutputError) as caught,
        disk_errors(tmp_path / ".out.mpu-partial" / "copy-1" / ".after"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message.startswith(f"{tmp_path / 'out'}: ")
    with pytest.raises(OutputError) as caught, disk_errors(tmp_path):
        raise PermissionError(
            errno.EACCES, "Permission denied", str(tmp_path / ".out.mpu-partial" / "x")
        )
    assert caught.value.message == f"{tmp_path / 'out'}: Permission denied"


def test_copies_started_at_the_same_moment_share_their_parent(tmp_path, monkeypatch):
    """Another process may create the parent first (seen with make -j2)."""
    out = tmp_path / "to-server"
    out.mkdir()
    really_exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != out and really_exists(path))
    with Staging(out / "copy-1") as staging:
        (staging.path / "delta").write_text("x")
        staging.commit()
    assert (out / "copy-1" / "delta").read_text() == "x"


MINE = {
    "handoff": {
        "mpu.yaml": _manifest("handoff", {"copy-1": ["config.json"], "copy-12": ["a.b-c_d+e"]}),
        "copy-1/config.json": "{}",
        "copy-12/a.b-c_d+e": "",
    },
    "signed update": {
        "mpu.yaml": _manifest("update", {"copy-1": ["delta.safetensors"]}),
        "mpu.yaml.sig": "",
        "copy-1/delta.safetensors": "",
    },
    "handoffs of a split": {
        "holder-1/mpu.yaml": _manifest("handoff", {"copy-1": ["config.json"]}),
        "holder-1/copy-1/config.json": "{}",
        "holder-2/mpu.yaml": _manifest("handoff", {"copy-1": ["config.json"]}),
        "holder-2/copy-1/config.json": "{}",
    },
    "copy of an update": {
        ".recipe.json": '{"files": ["delta.safetensors"]}',
        "delta.safetensors": "",
    },
    "record": {"items.jsonl": "", "summary.json": "{}", MARKER: '["items.jsonl", "summary.json"]'},
    "model": {
        "config.json": "{}",
        "model.safetensors": "",
        "README.md": "",
        MARKER: '["README.md", "config.json", "model.safetensors"]',
    },
}


@pytest.mark.parametrize("kind", MINE)
def test_force_removes_only_listed_files(tmp_path, kind):
    """Every kind of result is replaced.

    With one extra file, folder or link nothing is removed.
    """

    def make(target: Path) -> set[str]:
        _write(target, MINE[kind], marked=False)
        return _tree(target)

    made = make(tmp_path / "whole")
    assert written_by_mpu(tmp_path / "whole") >= set(MINE[kind])
    with Staging(tmp_path / "whole", force=True) as staging:
        _fill(staging)
        staging.commit()
    assert _tree(tmp_path) == {"whole", "whole/file"}
    inner = {
        str(Path(name).parent / "thesis.tex") for name in made
    }  # at the top, and in every folder
    for number, name in enumerate((*sorted(inner), "empty", "link")):
        target = tmp_path / str(number)
        before = make(target)
        if name == "empty":
            (target / name).mkdir()
        elif name == "link":
            (target / name).symlink_to(tmp_path)
        else:
            (target / name).write_text("mine")
        with pytest.raises(OutputError) as caught, Staging(target, force=True):
            pass
        assert (
            caught.value.message
            == f"{target / name}: was not written by mpu, so --force does not remove it"
        )
        assert _tree(target) == before | {name}


@pytest.mark.parametrize(
    "files",
    [
        {"mpu.yaml": "an older update"},
        {"mpu.yaml": "kind: handoff\n"},
        {MARKER: "{"},
        {MARKER: "[1]"},
        {"config.json": "{}"},
        {"items.jsonl": "", "summary.json": "{}"},
        {"TOFU_EVAL.json": "{}", "TOFU_SUMMARY.json": "{}"},
        {"MUSE_EVAL.json": "{}", "MUSE_SUMMARY.json": "{}"},
    ],
)
def test_a_directory_without_a_valid_list_is_never_replaced(tmp_path, files):
    """A user's model, or a foreign manifest, does not allow to remove other files."""
    _write(tmp_path / "out", {**files, "precious": "mine"}, marked=False)
    with (
        pytest.raises(OutputError, match="has no file list from mpu"),
        Staging(tmp_path / "out", force=True),
    ):
        pass
    assert (tmp_path / "out" / "precious").read_text() == "mine"


def test_files_added_during_a_command_are_not_removed(tmp_path):
    """The list is checked again before the old result is moved aside."""
    _write(tmp_path / "out", {"config.json": "old"})
    with (
        pytest.raises(OutputError, match="late: was not written by mpu"),
        Staging(tmp_path / "out", force=True) as staging,
    ):
        _fill(staging)
        (tmp_path / "out" / "late").write_text("mine")
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/config.json", f"out/{MARKER}", "out/late"}


@pytest.mark.parametrize("hidden", [".out.mpu-partial", ".out.mpu-replaced"])
@pytest.mark.parametrize("planted", ["link", "file", "folder"])
def test_a_planted_sibling_is_not_touched(tmp_path, hidden, planted):
    """A link, a file or a folder of another user with the name of our hidden sibling."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.tex").write_text("mine")
    _write(tmp_path / "out", {"config.json": "old"})
    if planted == "link":
        (tmp_path / hidden).symlink_to(victim)
    elif planted == "file":
        (tmp_path / hidden).write_text("mine")
    else:
        victim.rename(tmp_path / hidden)
        (tmp_path / hidden).chmod(0o777)
        victim = tmp_path / hidden
    with (
        pytest.raises(
            OutputError, match=rf"{hidden}: (is a link or a file that|exists, and|belongs to)"
        ),
        Staging(tmp_path / "out", force=True) as staging,
    ):
        _fill(staging)
        staging.commit()
    assert os.path.lexists(tmp_path / hidden)
    assert (victim / "thesis.tex").read_text() == "mine"
    assert (tmp_path / "out" / "config.json").read_text() == "old"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to another user")
def test_another_users_staging_directory_is_not_trusted(tmp_path):
    """In a shared directory another user could create it first and would own our files."""
    partial = tmp_path / ".out.mpu-partial"
    partial.mkdir(mode=0o700)
    os.chown(partial, 12345, 12345)
    with pytest.raises(OutputError, match="belongs to another user"), Staging(tmp_path / "out"):
        pass
    assert partial.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory to another user")
def test_a_file_system_with_one_owner_is_accepted(tmp_path, monkeypatch):
    """NFS maps root, and foreign file systems have one owner and no modes."""
    monkeypatch.setattr(
        os, "geteuid", lambda: 12345
    )  # the directory and all files in it are then another user's, root's
    for name in ("fresh", "left"):
        if name == "left":
            (tmp_path / f".{name}.mpu-partial").mkdir(mode=0o700)
        with Staging(tmp_path / name) as staging:
            _fill(staging)
            staging.commit()
    assert _tree(tmp_path) == {"fresh", "fresh/file", "left", "left/file"}


def test_a_staging_directory_that_was_swapped_is_neither_published_nor_removed(tmp_path):
    """A process that can write to the parent may replace it; the replacement is not touched."""
    with (
        pytest.raises(OutputError, match="was moved or replaced"),
        Staging(tmp_path / "out") as staging,
    ):
        _fill(staging)
        staging.path.rename(tmp_path / "away")
        staging.path.mkdir()
        (staging.path / "thesis.tex").write_text("mine")
        staging.commit()
    assert (tmp_path / ".out.mpu-partial" / "thesis.tex").read_text() == "mine"
    assert not (tmp_path / "out").exists()


def test_the_next_run_removes_what_a_killed_replacement_left(tmp_path):
    """A kill between the two renames leaves the old result aside."""
    _write(tmp_path / ".out.mpu-replaced", {"config.json": "old"})
    with Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}
