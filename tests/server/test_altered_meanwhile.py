"""Files that change between the check of their digest and their use: nothing comes of it.

Another process writes one byte; a hook of the test, on a function that the command calls, decides
when. The time of the last modification is set back where a careful program would do so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from two_parties import DeltaFormat

from mpu_cli.bundle.read import read_handoff, read_update
from mpu_cli.checkpoint import file_state
from mpu_cli.checkpoint.file_state import FileState, WatchedFiles
from mpu_cli.client import diff as diff_module
from mpu_cli.client.changed_copy import write_changed_copy
from mpu_cli.errors import BadBundleError, BadModelError, CheckFailedError
from mpu_cli.server.aggregation import aggregate as aggregate_module
from mpu_cli.server.publishing import perturb as perturb_module
from mpu_cli.server.publishing import reissue as reissue_module

_ALTER = """
import os, sys
path, place, keep = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "keep"
before = os.stat(path)
with open(path, "r+b") as file:
    file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
    byte = file.read(1)
    file.seek(-1, os.SEEK_CUR)
    file.write(bytes([byte[0] ^ 1]))
if keep:
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
"""


def alter(path: Path, *, keep_time: bool = False, place: int = -1) -> None:
    """Another process flips one bit of a file."""
    words = [sys.executable, "-c", _ALTER, path, str(place), "keep" if keep_time else ""]
    subprocess.run(words, check=True)


def before(monkeypatch, module, name: str, act: Callable[[], None]) -> None:
    """Let `act` run once, before the first call of a function that a module uses."""
    original, waiting = getattr(module, name), [act]

    def call(*args, **kwargs):
        while waiting:
            waiting.pop()()
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize("keep_time", [False, True])
def test_an_update_altered_after_its_check_is_not_aggregated(server, monkeypatch, keep_time):
    """Its digest is in the lineage, so its bytes must be those that were added."""
    handed = server.perturb(copies=2)
    update = server.update(handed)
    file = update / "copy-1/delta.safetensors"
    act = lambda: alter(file, keep_time=keep_time)  # noqa: E731
    before(monkeypatch, aggregate_module, "write_changed", act)
    with pytest.raises(BadBundleError, match="altered while") as refused:
        server.aggregate(update)
    assert str(file) in refused.value.message and "run again" in str(refused.value.hint)
    assert not (server.root / "next").exists()
    assert len(server.lineage.models) == 1
    alter(file)  # back again
    server.aggregate(update)


def test_a_model_altered_after_its_check_is_not_aggregated_onto(server, monkeypatch, tmp_path):
    """The lineage says which model the update was added to."""
    handed = server.perturb(copies=2)
    update = server.update(handed)
    model = Path(shutil.copytree(server.pair.model, tmp_path / "θ"))
    server.path = lambda _: model
    before(
        monkeypatch, aggregate_module, "write_changed", lambda: alter(model / "model.safetensors")
    )
    with pytest.raises(BadModelError, match="altered while"):
        server.aggregate(update)
    assert not (server.root / "next").exists() and len(server.lineage.models) == 1


@pytest.mark.parametrize("settings", [{}, {"reparam": "none", "kappa": 0.0, "offset": 0.0}])
def test_a_model_altered_while_it_is_perturbed_is_not_published(
    server, monkeypatch, settings, tmp_path
):
    """With noise, and where the bytes are copied as they are."""
    model = Path(shutil.copytree(server.pair.model, tmp_path / "θ"))
    server.path = lambda _: model
    before(monkeypatch, perturb_module, "write_copies", lambda: alter(model / "model.safetensors"))
    with pytest.raises(BadModelError, match="altered while"):
        server.perturb(copies=2, **settings)
    assert not (server.root / "handoff-1").exists() and not server.secret.exists()


def test_a_model_altered_while_a_handoff_is_reissued(server, monkeypatch, tmp_path):
    """It says what happened, not that the machine rounds otherwise."""
    from mpu_cli.checkpoint.locate import Located

    model = Path(shutil.copytree(server.pair.model, tmp_path / "θ"))
    server.path = lambda _: model
    _, record = server.perturb(copies=2)
    before(monkeypatch, reissue_module, "write_copies", lambda: alter(model / "model.safetensors"))
    with pytest.raises(BadModelError, match="altered while"):
        reissue_module.reissue(
            Located(model, None), server.root / "again", server.secret, record.id
        )
    assert not (server.root / "again").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer_config.json"])
def test_a_handoff_altered_after_its_check_gives_no_update(server, monkeypatch, name):
    """Diff subtracts the published weights: they must be those that were checked."""
    folder, _ = server.perturb(copies=2)
    act = lambda: alter(folder / "copy-2" / name, keep_time=True)  # noqa: E731
    before(monkeypatch, diff_module, "write_payload", act)
    trained = Path(shutil.copytree(folder, server.root / "trained"))
    with pytest.raises((BadBundleError, CheckFailedError)) as refused:
        diff_module.diff(folder, trained, server.root / "u", DeltaFormat("float32", 1 << 30))
    if name != "model.safetensors":  # there a frozen tensor seems to have moved
        assert "altered while" in refused.value.message
    assert not (server.root / "u").exists()


@pytest.mark.parametrize("which", ["handoff", "update"])
def test_a_changed_copy_is_made_of_checked_files(server, monkeypatch, which):
    """`mpu eval --handoff` measures it, and records the handoff's digest."""
    from mpu_cli.client import changed_copy

    handed = server.perturb(copies=2)
    update = server.update(handed)
    file = (
        handed[0] / "copy-1/model.safetensors"
        if which == "handoff"
        else update / "copy-1/delta.safetensors"
    )
    before(monkeypatch, changed_copy, "write_changed", lambda: alter(file))
    (server.root / "copy").mkdir()
    with pytest.raises(BadBundleError, match="altered while"):
        write_changed_copy(handed[0], update, 1, server.root / "copy")


def test_a_model_that_got_a_hard_link_meanwhile_is_aggregated_onto(server, monkeypatch, tmp_path):
    """Where only the ctime differs, the digest is computed again; with another bit it decides."""
    handed = server.perturb(copies=2)
    update = server.update(handed)
    model = Path(shutil.copytree(server.pair.model, tmp_path / "θ"))
    server.path = lambda _: model
    file = model / "model.safetensors"
    before(monkeypatch, aggregate_module, "write_changed", lambda: alter(file, keep_time=True))
    with pytest.raises(BadModelError, match="altered while"):
        server.aggregate(update)
    alter(file)  # back again
    act = lambda: os.link(file, tmp_path / "backup")  # noqa: E731
    before(monkeypatch, aggregate_module, "write_changed", act)
    server.aggregate(update)
    assert len(server.lineage.models) == 2


@pytest.fixture
def watched(tmp_path) -> tuple[Path, WatchedFiles]:
    """A file whose digest was computed."""
    file = tmp_path / "bundle/x"
    file.parent.mkdir()
    file.write_bytes(b"abcd")
    files = WatchedFiles()
    files.digest(file)
    files.require_unchanged(file.parent)
    return file, files


@pytest.mark.parametrize("keep_time", [False, True])
def test_a_write_right_after_the_digest_is_noticed(watched, keep_time):
    """However soon it comes, and if the modification time is set back."""
    file, files = watched
    alter(file, keep_time=keep_time)
    with pytest.raises(BadBundleError, match="altered while"):
        files.require_unchanged(file.parent)


def test_the_earliest_possible_write_is_noticed(tmp_path):
    """Many times: write, digest, write the same number of bytes at once in this process."""
    missed = 0
    for number in range(30):
        file = tmp_path / str(number)
        file.write_bytes(b"a")
        files = WatchedFiles()
        files.digest(file)
        with file.open("r+b") as opened:
            opened.write(b"b")
        try:
            files.require_unchanged(tmp_path)
        except BadBundleError:
            continue
        missed += 1
    assert missed == 0


@pytest.mark.parametrize("how", ["removed", "replaced", "a pipe", "truncated"])
def test_a_file_that_is_no_longer_there_is_noticed(watched, how):
    """One line, and no waiting for a writer."""
    file, files = watched
    if how == "truncated":
        os.truncate(file, 2)
    else:
        file.unlink()
        if how == "replaced":
            file.write_bytes(b"abcd")
        elif how == "a pipe":
            os.mkfifo(file)
    with pytest.raises(BadBundleError, match="bundle/x"):
        files.require_unchanged(file.parent)


@pytest.mark.parametrize("how", ["hard link", "mode", "read"])
def test_what_leaves_the_bytes_alone_does_not_disturb(watched, how, tmp_path):
    """A backup by hard links, a change of mode, another reader."""
    file, files = watched
    if how == "hard link":
        os.link(file, tmp_path / "backup")
    elif how == "mode":
        file.chmod(0o600)
    else:
        file.read_bytes()
    files.require_unchanged(file.parent)


def test_only_fresh_files_are_waited_for(tmp_path, monkeypatch):
    """A file of yesterday costs no time; a clock that was set back costs a bounded time."""
    slept = []
    monkeypatch.setattr(file_state.time, "sleep", slept.append)
    now = file_state.time.time_ns()
    FileState(1, 1, 1, 1, now - 10**12 + 1).settle()
    FileState(1, 1, 1, 1, now + 10**15 + 1).settle()
    assert slept == []


def test_the_golden_bundles_are_watched_as_they_are_read():
    """Both readers take the digest function, so that a caller may watch every file."""
    golden = Path(__file__).parents[1] / "golden"
    for name, read in (("handoff-v1", read_handoff), ("update-v1", read_update)):
        files = WatchedFiles()
        manifest = read(golden / name, digest=files.digest)
        assert len(files._files) == sum(len(copy.files) for copy in manifest.copies)
        files.require_unchanged(golden / name)
