"""Directories that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BusyError, OutputError, UsageError


def _fill(staging: Staging, text: str = "new") -> None:
    (staging.path / "file").write_text(text)


def _tree(path: Path) -> set[str]:
    return {str(item.relative_to(path)) for item in path.rglob("*")}


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


def test_a_committed_directory_is_whole_and_alone(tmp_path):
    """After commit the target holds what was written and no sibling is left."""
    with Staging(tmp_path / "out") as staging:
        _fill(staging)
        assert not (tmp_path / "out").exists()
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_an_error_leaves_nothing_not_even_made_parents(tmp_path):
    """Parents that were made for the target are removed with it; those that were there stay."""
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), Staging(tmp_path / "there" / "a" / "b" / "out") as staging:
        _fill(staging)
        raise RuntimeError
    assert _tree(tmp_path) == {"there"}


def test_parents_are_made_for_a_target_that_is_committed(tmp_path):
    """A deep target needs no mkdir by hand."""
    with Staging(tmp_path / "a" / "b" / "out") as staging:
        _fill(staging)
        staging.commit()
    assert (tmp_path / "a" / "b" / "out" / "file").read_text() == "new"


def test_parents_are_removed_when_the_directory_itself_cannot_be_made(tmp_path, monkeypatch):
    """A failure before anything is staged leaves no empty parents either."""
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
    """The message names the target and the way out; nothing is touched."""
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
        with pytest.raises(OutputError, match="not a directory"), Staging(tmp_path / name, force=force):
            pass
    assert (tmp_path / "file").read_text() == "mine"


def test_an_empty_target_is_replaced_without_force(tmp_path):
    """A directory made beforehand, as by mkdir in a script, is fine."""
    (tmp_path / "out").mkdir()
    with Staging(tmp_path / "out") as staging:
        _fill(staging)
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_force_replaces_a_directory_as_a_whole(tmp_path):
    """No old file survives, and the old directory is not left beside."""
    (tmp_path / "out" / "copy-1").mkdir(parents=True)
    (tmp_path / "out" / "mpu.yaml").write_text("old")
    (tmp_path / "out" / "copy-1" / "old").write_text("old")
    with Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        assert (tmp_path / "out" / "copy-1" / "old").exists()
        staging.commit()
    assert _tree(tmp_path) == {"out", "out/file"}


def test_a_failed_replacement_keeps_the_old_directory(tmp_path):
    """With --force the old state stays until the new one is complete."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("old")
    with pytest.raises(RuntimeError), Staging(tmp_path / "out", force=True) as staging:
        _fill(staging)
        raise RuntimeError
    assert _tree(tmp_path) == {"out", "out/config.json"}


def test_an_interrupt_between_the_two_renames_of_a_replacement_restores_the_old_directory(tmp_path, monkeypatch):
    """The old directory is already moved aside when Ctrl-C comes: it is moved back."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("old")
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
    assert _tree(tmp_path) == {"out", "out/config.json"}


def test_force_replaces_only_what_mpu_wrote(tmp_path):
    """A home directory given by mistake survives, and so does anything that holds a secret, however deep."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(OutputError, match="not something that mpu wrote"), Staging(tmp_path / "home", force=True):
        pass
    (tmp_path / "out" / "deep" / "server").mkdir(parents=True)
    (tmp_path / "out" / "mpu.yaml").write_text("")
    (tmp_path / "out" / "deep" / "server" / "secret.yaml").write_text("")
    with pytest.raises(OutputError, match="deep/server: is a secret directory, which is never overwritten"):
        refuse_existing(tmp_path / "out", force=True)


@pytest.mark.parametrize("target", ["in", "in/deep/out", ".", "link/out", "in/../in"])
def test_a_result_that_lies_in_its_input_or_holds_it_is_refused(tmp_path, target):
    """With --force the input would be destroyed; links and dots do not hide it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(UsageError, match="lies in"):
        refuse_nesting(tmp_path / target, tmp_path / "in")
    refuse_nesting(tmp_path / "input", tmp_path / "in")


def test_a_partial_left_by_a_crash_is_cleaned_by_the_next_run(tmp_path):
    """Files, folders and links of a run that was killed do not get into the next one's result."""
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
    """The second is told to wait, and does not disturb the first."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom mpu_cli.checkpoint.staging import Staging\nfrom mpu_cli.errors import BusyError\n"
        "try:\n  with Staging(Path(sys.argv[1])): pass\nexcept BusyError as error:\n  print(error.message); sys.exit(error.exit_code)"
    )
    with Staging(tmp_path / "deep" / "out") as staging:
        _fill(staging)
        other = subprocess.run([sys.executable, "-c", code, tmp_path / "deep" / "out"], capture_output=True, text=True, check=False)
        assert (other.returncode, other.stderr) == (BusyError.exit_code, "")
        assert "another mpu process is writing it" in other.stdout
        staging.commit()
    assert (tmp_path / "deep" / "out" / "file").read_text() == "new"


def test_another_target_may_be_written_at_the_same_time(tmp_path):
    """The lock is of the target, not of its folder: make -j writes copies side by side."""
    with Staging(tmp_path / "one") as one, Staging(tmp_path / "two") as two:
        for staging in (one, two):
            _fill(staging)
            staging.commit()
    assert _tree(tmp_path) == {"one", "one/file", "two", "two/file"}


@pytest.mark.parametrize(("umask", "private", "expected"), [(0o077, False, 0o755), (0o000, False, 0o755), (0o000, True, 0o700)])
def test_modes_do_not_depend_on_the_umask(tmp_path, umask, private, expected):
    """Public directories are 0755 and private ones 0700, whatever the shell's umask is; files as they were asked for."""
    with _umask(umask), Staging(tmp_path / "out", private=private) as staging:
        write_new(staging.path / "public", b"")
        write_new(staging.path / "secret", b"", 0o600)
        assert staging.path.stat().st_mode & 0o777 == 0o700
        staging.commit()
    assert (tmp_path / "out").stat().st_mode & 0o777 == expected
    assert (tmp_path / "out" / "public").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "out" / "secret").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_one_readable_line(tmp_path):
    """ENOSPC names the target and what to do; other errors name the file that could not be written."""
    with pytest.raises(OutputError) as caught, disk_errors(tmp_path / "out"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message == f"{tmp_path / 'out'}: the disk is full; nothing was kept"
    assert caught.value.exit_code == 3
    with pytest.raises(OutputError, match="Permission denied") as caught, disk_errors(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/x")
    assert caught.value.message.startswith("/root/x: ")


def test_a_target_below_a_file_is_refused(tmp_path):
    """A parent that is a file cannot be made a directory; nothing is left."""
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path / "file" / "out", tmp_path / "file" / "deep" / "out"):
        with pytest.raises(OutputError), Staging(target):
            pass
    refuse_existing(tmp_path / "free")
    assert _tree(tmp_path) == {"file"}


def test_errors_name_the_directory_that_was_asked_for(tmp_path):
    """The hidden sibling is nobody's business: paths inside it are shown as the target."""
    with pytest.raises(OutputError) as caught, disk_errors(tmp_path / ".out.mpu-partial" / "copy-1" / ".after"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.message.startswith(f"{tmp_path / 'out'}: ")
    with pytest.raises(OutputError) as caught, disk_errors(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / ".out.mpu-partial" / "x"))
    assert caught.value.message == f"{tmp_path / 'out'}: Permission denied"


def test_copies_started_at_the_same_moment_share_their_parent(tmp_path, monkeypatch):
    """A parent that another process makes between the look and the making is no error (seen with make -j2)."""
    out = tmp_path / "to-server"
    out.mkdir()
    really_exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: path != out and really_exists(path))
    with Staging(out / "copy-1") as staging:
        (staging.path / "delta").write_text("x")
        staging.commit()
    assert (out / "copy-1" / "delta").read_text() == "x"
