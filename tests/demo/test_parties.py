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
    """Negative control: a party's own file is readable, so the proof is not always true."""
    server, client = parties
    assert not client.cannot_read(server, client.directory / "own.txt")


@pytest.mark.parametrize("where", ["parties", "with a space", "größe"])
def test_the_proof_holds_for_relative_paths_too(tmp_path, monkeypatch, where):
    """Whatever a directory is called, and from wherever it is named."""
    monkeypatch.chdir(tmp_path)
    server, client = (Party(name, Path(where) / name) for name in ("server", "client"))
    for party in (server, client):
        party.directory.mkdir(parents=True)
        (party.directory / "own.txt").write_text(party.name)
    assert client.cannot_read(server, server.directory / "own.txt")
    assert not client.cannot_read(server, client.directory / "own.txt")


def test_an_attempt_that_fails_by_itself_is_no_proof(parties, monkeypatch):
    """A file that is not there, and an attempt that crashes or ends like a program that was refused something else."""
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


def test_the_wall_is_taken_down_again(parties):
    """After a command the other party's directory has its mode back, also when the command failed."""
    server, client = parties
    assert client.run([sys.executable, "-c", "import sys; sys.exit(5)"], server).returncode == 5
    assert server.directory.stat().st_mode & 0o777 == 0o700


def test_a_failing_command_is_reported_in_its_own_words(parties):
    """The message of the party's command reaches the caller."""
    server, client = parties
    with pytest.raises(CheckFailedError, match="server: mpu inspect: absent: no such directory"):
        server.mpu("inspect", "absent", away_from=client)


def test_what_the_courier_carries_is_a_copy(parties):
    """Carrying a directory leaves the sender's in place."""
    server, client = parties
    (server.directory / "to-client").mkdir()
    (server.directory / "to-client" / "file").write_text("x")
    server.carry("to-client", client)
    assert (client.directory / "to-client" / "file").read_text() == "x"
    assert (server.directory / "to-client" / "file").exists()
