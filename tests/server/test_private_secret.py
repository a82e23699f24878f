"""A secret that other users can reach is closed loudly, or refused."""

from __future__ import annotations

import os
import shutil
import stat
import warnings
from pathlib import Path

import pytest

from mpu_cli.errors import BadSecretError, MpuWarning
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.secrets import private

GOLDEN = Path(__file__).parents[1] / "golden" / "secret-v1"


@pytest.fixture
def secret(tmp_path) -> Path:
    """A secret that only this user can reach."""
    place = Path(shutil.copytree(GOLDEN, tmp_path / "server"))
    for path in (place, *place.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return place


def _read(secret: Path) -> list[str]:
    """Open the secret as the commands do; return the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Lineage.read(secret)
        with open_locked(secret):
            pass
    return [str(item.message) for item in caught if item.category is MpuWarning]


def _modes(secret: Path) -> set[int]:
    return {path.stat().st_mode & 0o077 for path in (secret, *secret.rglob("*"))}


def test_a_private_secret_is_read_silently(secret):
    """The negative control."""
    assert _read(secret) == []


@pytest.mark.parametrize(
    ("mode", "words"), [(0o777, "read and change"), (0o755, "could read the"), (0o710, "read")]
)
def test_an_open_directory_is_closed_loudly(secret, mode, words):
    """One warning names the directory, its mode and what it means; then it is private."""
    for path in secret.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    secret.chmod(mode)
    found = _read(secret)
    assert len(found) == 1 and words in found[0]
    assert f"{secret}: had mode {mode:04o}" in found[0] and "--new-lineage" in found[0]
    assert _modes(secret) == {0}
    assert _read(secret) == []


def test_open_files_in_a_closed_directory_are_closed(secret):
    """Nobody could reach them, so nothing is said."""
    (secret / "secret.yaml").chmod(0o666)
    (secret / "models").chmod(0o777)
    assert _read(secret) == []
    assert _modes(secret) == {0}


def test_a_linked_directory_is_closed(secret, tmp_path):
    """The mode of the directory counts, not that of a link to it."""
    secret.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(secret)
    assert len(_read(link)) == 1 and _modes(secret) == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_secret_of_another_user_is_told_to_root(secret):
    """In a container, root works on its user's directory."""
    os.chown(secret, 4321, -1)
    assert any("belongs to another user (number 4321)" in text for text in _read(secret))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("part", [".", "secret.yaml", "handoffs"])
def test_a_secret_of_another_user_is_refused(secret, part, tmp_path):
    """Its owner can read it and change it, whatever its mode."""
    for folder in (*tmp_path.parents, tmp_path):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(0o755)
    for path in (secret, *secret.rglob("*")):
        os.chown(path, 1234, -1)
    os.chown(secret / part, 4321, -1)
    child = os.fork()
    if child == 0:  # as another user
        code = 1
        try:
            os.setuid(1234)
            Lineage.read(secret)
        except BadSecretError as error:
            named = error.message.startswith(f"{secret / part}: belongs to another user")
            code = 0 if named and "chown" in str(error.hint) else 2
        except OSError:
            code = 3
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_file_system_that_maps_users_is_no_other_user(secret, monkeypatch):
    """A network file system may give all that we create there another number."""
    os.chown(secret, 4321, -1)
    monkeypatch.setattr(private, "own_uid", lambda handle, owner: 4321)
    assert _read(secret) == []


def test_a_file_system_without_modes_is_refused(secret, monkeypatch):
    """The change of mode has no effect there; the hint says what to do."""
    secret.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_, **__: None)
    with pytest.raises(BadSecretError, match="cannot be changed here") as refused:
        Lineage.read(secret)
    assert "chmod" in str(refused.value.hint)


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_commands_tell_it(secret, command, capfd):
    """The warning reaches standard error of whoever opens the secret."""
    from mpu_cli.cli.app import run

    secret.chmod(0o755)
    assert run([command, str(secret)]) == 0
    assert f"warning: {secret}: had mode 0755" in capfd.readouterr().err
