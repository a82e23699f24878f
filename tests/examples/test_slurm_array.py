"""The batch scripts (in bash, without Slurm) and the Makefile.

The same update as one command makes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm-array"
OPTIONS = [
    "--method",
    "GradDiff",
    "--max-steps",
    "2",
    "--batch-size",
    "2",
    "--learning-rate",
    "1e-3",
]
MPU = [sys.executable, "-m", "mpu_cli"]


@pytest.fixture
def client(tiny_pair, tmp_path) -> Path:
    """A directory with a handoff of two copies and rows."""
    pair = tiny_pair("llama")
    for name, start in (("forget", 0), ("retain", 30)):
        rows = [
            {"question": f"w{i} ?", "answer": f"w{i + 1} w{i + 2} ."}
            for i in range(start, start + 4)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mpu").write_text(f'#!/bin/sh\nexec {sys.executable} -m mpu_cli "$@"\n')
    (tmp_path / "bin" / "mpu").chmod(0o755)
    perturb = [
        "perturb",
        str(pair.model),
        "--base",
        str(pair.base),
        "--handoff",
        "to-client",
        "--secret",
        "server",
        "-m",
        "2",
    ]
    done = run(tmp_path, [*MPU, *perturb])
    assert done.returncode == 0, done.stderr
    return tmp_path


def run(where: Path, command: list[str], **names: str) -> subprocess.CompletedProcess[str]:
    """In the client's directory, `mpu` on the path."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{where / 'bin'}:{os.environ['PATH']}",
        **names,
    }
    return subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, check=False
    )


def files(directory: Path) -> dict[str, bytes]:
    """Every file of an update."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.slow
def test_the_array_makes_the_update_of_one_command(client):
    """Each task its copy; a task that is run again does nothing; finish; make gives the same."""
    rows = ["forget.jsonl", "retain.jsonl"]
    for task in ("1", "2", "1"):
        done = run(
            client,
            [str(EXAMPLE / "copies.sbatch"), "to-client", *rows, "to-server", *OPTIONS],
            SLURM_ARRAY_TASK_ID=task,
        )
        assert done.returncode == 0, done.stderr
    assert "already there" in done.stdout
    assert run(client, [str(EXAMPLE / "finish.sbatch"), "to-client", "to-server"]).returncode == 0
    at_once = [
        *MPU,
        "unlearn",
        "to-client",
        "--forget",
        rows[0],
        "--retain",
        rows[1],
        *OPTIONS,
        "--out",
        "at-once",
    ]
    assert run(client, at_once).returncode == 0
    assert files(client / "to-server") == files(client / "at-once")
    if shutil.which("make"):
        done = run(
            client,
            [
                "make",
                "-j2",
                "-f",
                str(EXAMPLE / "Makefile"),
                "OUT=made",
                f"OPTIONS={' '.join(OPTIONS)}",
            ],
        )
        assert done.returncode == 0, done.stderr
        assert files(client / "made") == files(client / "at-once")
    assert not list(client.glob(".*"))


def test_the_scripts_are_sound():
    """Bash parses them, and without arguments they say how to use them."""
    for name in ("copies.sbatch", "finish.sbatch"):
        assert subprocess.run(["bash", "-n", str(EXAMPLE / name)], check=False).returncode == 0
        done = subprocess.run([str(EXAMPLE / name)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr[:6]) == (2, "usage:")
