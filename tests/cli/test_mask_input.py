"""`mpu mask key` and `mpu mask group` on input that members really make."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

P = 2**255 - 19


@pytest.fixture
def keys(mpu, tmp_path, monkeypatch):
    """The keys of two members in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("lab", "clinic"):
        assert mpu("mask", "key", "--out", f"{name}.key").code == 0


def test_a_name_from_the_file_that_cannot_be_used_names_the_option(mpu, tmp_path, monkeypatch):
    """No --name was given, so the message does not blame it."""
    monkeypatch.chdir(tmp_path)
    done = mpu("mask", "key", "--out", "our lab.key")
    assert (done.code, list(tmp_path.iterdir())) == (2, [])
    assert "mpu: error: 'our lab' cannot be a member's name in a group file" in done.err
    assert "mpu: hint: give --name NAME" in done.err


def test_group_files_of_other_editors(keys, mpu):
    """A byte order mark and CRLF are no members; one member's line twice says so."""
    Path("lab.txt").write_bytes(b"\xef\xbb\xbf" + Path("lab.key.pub").read_bytes()[:-1] + b"\r\n")
    shown = mpu("mask", "group", "lab.txt", "clinic.key.pub", "--json")
    assert {member["name"] for member in shown.json["members"]} == {"lab", "clinic"}
    twice = mpu("mask", "group", "lab.key.pub", "lab.key.pub")
    assert twice.code == 3
    assert "lab is given twice" in twice.err and "give each member's line once" in twice.err


@pytest.mark.parametrize("other", [lambda key: key | 1 << 255, lambda key: 9 + P])
def test_a_key_has_one_spelling(keys, mpu, other):
    """X25519 reads several numbers as one key: it could be counted as several members."""
    key = int.from_bytes(base64.b64decode(Path("lab.key.pub").read_text().split()[1]), "little")
    again = base64.b64encode(other(key).to_bytes(32, "little")).decode()
    Path("again.pub").write_text(f"archive {again}\n")
    done = mpu("mask", "group", "lab.key.pub", "again.pub")
    assert done.code == 3
    assert "again.pub:1: not a usable X25519 key" in done.err
