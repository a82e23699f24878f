"""Fixtures to run command lines in this process, and a round between two parties."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rounds import FORGET, QUICK, RETAIN, Done, Round, quietly


@pytest.fixture
def mpu(capsys) -> Callable[..., Done]:
    """`mpu("perturb", …)`: run a command line in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = quietly(arguments)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished_round(tiny_pair, tmp_path_factory) -> Round:
    """A tiny Llama, published in two copies and unlearned on both; tests must not change it."""
    pair = tiny_pair("llama")
    root = tmp_path_factory.mktemp("round")
    made = Round(
        pair.model,
        pair.base,
        *(
            root / name
            for name in ("to-client", "server", "to-server", "forget.jsonl", "retain.jsonl")
        ),
    )
    for path, rows in ((made.forget, FORGET), (made.retain, RETAIN)):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    perturbed = (
        "perturb",
        made.model,
        "--base",
        made.base,
        "--handoff",
        made.handoff,
        "--secret",
        made.secret,
        "-m",
        2,
        "--kappa",
        0.01,
    )
    assert quietly(perturbed) == 0
    data = ("--forget", made.forget, "--retain", made.retain, *QUICK)
    assert quietly(("unlearn", made.handoff, *data, "--out", made.update)) == 0
    return made


@pytest.fixture
def own_round(finished_round, tmp_path) -> Round:
    """A copy of the round that a test may break."""
    root = tmp_path / "round"
    copied = {}
    for name in ("model", "base", "handoff", "secret", "update"):
        source = getattr(finished_round, name)
        copied[name] = Path(
            shutil.copytree(source, root / ("model" if name == "model" else source.name))
        )
    for name in ("forget", "retain"):
        copied[name] = Path(shutil.copy(getattr(finished_round, name), root))
    return Round(**copied)


@pytest.fixture
def leftovers(tmp_path) -> Callable[[], list[str]]:
    """Find the partial files that a command left below the test's directory."""

    def find() -> list[str]:
        marks = (".mpu-partial", ".mpu-replaced", ".partial", ".after")
        return [
            str(path.relative_to(tmp_path))
            for path in tmp_path.rglob("*")
            if path.name.endswith(marks)
        ]

    return find


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of one megabyte with 8 kB of free space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {mounted.stderr.strip()}")
    try:
        (disk / "filler").write_bytes(bytes((1 << 20) - 8192))
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment of subprocesses: offline, one thread, no debugging."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MPU_DEBUG": ""}
