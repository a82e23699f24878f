"""`mpu verify --expect`: the sender does not decide what a directory is; every file is checked."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import pytest

PARTS = ("handoff", "update", "secret", "model")


@pytest.mark.parametrize("expected", PARTS)
@pytest.mark.parametrize("found", PARTS)
def test_expect_accepts_one_kind(mpu, finished_round, found, expected):
    """Exit 0 for its own kind, 3 with both names for another."""
    path = getattr(finished_round, found)
    done = mpu("verify", path, "--expect", expected)
    assert done.code == (0 if found == expected else 3), done.err
    if found != expected:
        assert f"{path}: is " in done.err
        assert ", expected " in done.err
        assert len(done.err.splitlines()) <= 2
    assert mpu("verify", path).code == 0


def test_expect_has_four_values(mpu, finished_round):
    """Another value is a usage error with a suggestion."""
    done = mpu("verify", finished_round.handoff, "--expect", "handof")
    assert done.code == 2
    assert "did you mean handoff?" in done.err


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pair for pair in permutations(PARTS, 2) if set(pair) != {"handoff", "update"}
    ],  # these two share one manifest
)
def test_two_kinds_in_one_directory_are_bad_input(mpu, own_round, tmp_path, first, second):
    """An attack: a valid secret's files beside a handoff's. inspect refuses it too."""
    mixed = Path(shutil.copytree(getattr(own_round, first), tmp_path / "mixed"))
    shutil.copytree(getattr(own_round, second), mixed, dirs_exist_ok=True)
    for arguments in (
        ("verify", mixed),
        *(("verify", mixed, "--expect", kind) for kind in PARTS),
        ("inspect", mixed),
    ):
        done = mpu(*arguments)
        assert (done.code, done.out) == (3, ""), arguments
        assert f"{mixed}: holds the files of " in done.err


def test_a_secret_does_not_hide_an_altered_handoff(mpu, own_round, tmp_path):
    """Altered weights, a pickle and remote code beside a valid secret."""
    evil = own_round.handoff
    (evil / "copy-1" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (evil / "copy-1" / "modeling_evil.py").write_text("import os")
    weights = evil / "copy-1" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x00\x00")
    shutil.copytree(own_round.secret, evil, dirs_exist_ok=True)
    assert mpu("verify", evil).code == 3
    assert mpu("verify", evil, "--expect", "handoff").code == 3


@pytest.mark.parametrize("kind", ["handoff", "update", "secret", "model"])
@pytest.mark.parametrize("name", ["evil.py", "pytorch_model.bin", "stray.safetensors", "notes.pkl"])
def test_unchecked_files_are_refused_in_every_kind(mpu, own_round, kind, name):
    """A file that other programs would load or run is named, exit 3."""
    path = getattr(own_round, kind)
    (path / name).write_bytes(b"")
    done = mpu("verify", path, "--expect", kind)
    assert done.code == 3
    assert str(path / name) in done.err


@pytest.mark.parametrize("name", ["README.md", "LICENSE", ".gitattributes"])
def test_documents_are_allowed_beside_a_model_only(mpu, own_round, name):
    """Models of the Hub have them; bundles and secrets are listed completely."""
    for kind, code in (("model", 0), ("handoff", 3), ("update", 3), ("secret", 3)):
        (getattr(own_round, kind) / name).write_text("text")
        assert mpu("verify", getattr(own_round, kind)).code == code, kind
