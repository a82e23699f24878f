"""`mpu demo` with both parties' real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.cli.app import run
from mpu_cli.demo import demonstration


@pytest.mark.slow
def test_the_demo_keeps_its_files_in_a_relative_directory(tmp_path):
    """The name has a space and a non-ASCII letter, in an ASCII locale."""
    command = [sys.executable, "-m", "mpu_cli", "demo", "--keep", "kept größe", "--json"]
    given = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["directory"] == "kept größe"
    assert (
        found["answer_probability"]["mpu"]["forget"]
        < found["answer_probability"]["before"]["forget"]
    )
    assert {path.name for path in (tmp_path / "kept größe").iterdir()} == {
        "server",
        "client",
        "both",
        "nobody",
    }


def test_a_directory_that_is_not_empty_is_refused(tmp_path, capsys):
    """The hint names no --force, which this command does not have."""
    (tmp_path / "mine").touch()
    assert run(["demo", "--keep", str(tmp_path)]) == 3
    assert (
        capsys.readouterr().err
        == f"mpu: error: {tmp_path}: exists and is not empty\nmpu: hint: choose another path\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_demo_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    """The directory is removed, the wall is gone, and the failed proof is an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "_run", lambda *_: {"exposure": {}})
    (tmp_path / "kept").mkdir()
    assert run(["demo", "--keep", "kept"]) == 3
    assert "mpu: error: " in capsys.readouterr().err
    assert list(Path().iterdir()) == []
