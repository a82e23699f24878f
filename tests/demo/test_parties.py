"""The wall between two parties on one machine."""

import sys
from pathlib import Path

import pytest

from mpu_cli.demo.parties import Party
from mpu_cli.errors import CheckFailedError


@pytest.fixture
def parties(tmp_path):
    """Two parties with a file each."""
    made = [Party(name, tmp_path / name) for name in ("server", "client")]
    for party in made:
        party.directory.mkdir(mode=0o700)
        (party.directory / "own.txt").write_text(party.name)
    return made


def test_neither_party_can_read_the_others_file(parties):
    """A process of one party gets a permission error on the other's file, even as root."""
    server, client = parties
    assert client.cannot_read(server, server.directory / "own.txt")
    assert server.cannot_read(client, client.directory / "own.txt")


def test_the_proof_itself_can_fail(parties):
    """Negative control: a party can read its own file."""
    server, client = parties
    assert not client.cannot_read(server, client.directory / "own.txt")


@pytest.mark.parametrize("where", ["parties", "with a space", "größe"])
def test_the_proof_holds_for_relative_paths_too(tmp_path, monkeypatch, where):
    """From any directory and for any name."""
    monkeypatch.chdir(tmp_path)
    server, client = (Party(name, Path(where) / name) for name in ("server", "client"))
    for party in (server, client):
        party.directory.mkdir(parents=True)
        (party.directory / "own.txt").write_text(party.name)
    assert client.cannot_read(server, server.directory / "own.txt")
    assert not client.cannot_read(server, client.directory / "own.txt")


def test_a_failed_attempt_proves_nothing(parties, monkeypatch):
    """The file is absent, or the attempt crashes or is refused something else."""
    server, client = parties
    with pytest.raises(FileNotFoundError):
        client.cannot_read(server, server.directory / "absent.txt")
    for attempt in (
        "raise RuntimeError('boom')",
        "import sys; sys.exit(0)",
        "import sys; sys.exit(1)",
    ):
        monkeypatch.setattr("mpu_cli.demo.parties._ATTEMPT", attempt)
        with pytest.raises(CheckFailedError, match="proves nothing"):
            client.cannot_read(server, server.directory / "own.txt")


def test_the_wall_is_removed_after_a_command(parties):
    """The other party's directory gets its mode back, also after a failure."""
    server, client = parties
    assert client.run([sys.executable, "-c", "import sys; sys.exit(5)"], server).returncode == 5
    assert server.directory.stat().st_mode & 0o777 == 0o700


def test_the_message_of_a_failed_command_is_passed_on(parties):
    """The caller gets the message of the party's command."""
    server, client = parties
    with pytest.raises(CheckFailedError, match="server: mpu inspect: absent: no such directory"):
        server.mpu("inspect", "absent", away_from=client)


def test_carry_copies_a_directory(parties):
    """The sender keeps its directory."""
    server, client = parties
    (server.directory / "to-client").mkdir()
    (server.directory / "to-client" / "file").write_text("x")
    server.carry("to-client", client)
    assert (client.directory / "to-client" / "file").read_text() == "x"
    assert (server.directory / "to-client" / "file").exists()
