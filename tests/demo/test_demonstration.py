"""`mpu demo` itself, with both parties' real processes."""

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
def test_the_demo_keeps_what_it_made_in_a_relative_directory(tmp_path):
    """`--keep DIR` with a relative name that has a space and a letter beyond ASCII, in a locale without them."""
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


def test_a_directory_that_holds_something_is_refused(tmp_path, capsys):
    """With a remedy that this command has: there is no --force."""
    (tmp_path / "mine").touch()
    assert run(["demo", "--keep", str(tmp_path)]) == 3
    assert (
        capsys.readouterr().err
        == f"mpu: error: {tmp_path}: exists and is not empty\nmpu: hint: choose another path\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_demo_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys):
    """One that can be started again.

    The wall is down and the directory gone, and the proof's failure is told as such.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demonstration, "_say_and_run", lambda *_: {"exposure": {}})
    (tmp_path / "kept").mkdir()
    assert run(["demo", "--keep", "kept"]) == 3
    assert "mpu: error: " in capsys.readouterr().err
    assert list(Path().iterdir()) == []
