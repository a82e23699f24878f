"""MODEL and --base as Hub ids, offline from a prepared cache, in real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tiny_pair, tmp_path, environment) -> dict[str, str]:
    """An environment whose cache holds org/tiny and org/base, as links to blobs."""
    pair = tiny_pair("llama")
    for name, model in (("tiny", pair.model), ("base", pair.base)):
        root = tmp_path / "home" / "hub" / f"models--org--{name}"
        (root / "snapshots" / COMMIT).mkdir(parents=True)
        (root / "blobs").mkdir()
        (root / "refs").mkdir()
        (root / "refs" / "main").write_text(COMMIT)
        for number, file in enumerate(sorted(model.iterdir())):
            shutil.copy(file, root / "blobs" / f"{number:064x}")
            (root / "snapshots" / COMMIT / file.name).symlink_to(
                Path("..") / ".." / "blobs" / f"{number:064x}"
            )
    environment.pop("HF_HUB_CACHE", None)
    return {**environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}


def _mpu(
    environment: dict[str, str], where: Path, *arguments: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpu_cli", *map(str, arguments)],
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_model_and_its_base_come_from_the_cache(cached, tmp_path, finished_round):
    """The handoff is that of the same directories, and only the secret holds the commit."""
    options = (
        "--base",
        "hf://org/base@main",
        "--handoff",
        "to-client",
        "--secret",
        "server",
        "-m",
        2,
        "--json",
    )
    done = _mpu(cached, tmp_path, "perturb", "org/tiny", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    record = next((tmp_path / "server" / "models").iterdir())
    assert record.stem == told["model"]
    assert f'"source": "org/tiny@{COMMIT}"' in record.read_text()
    assert not any(
        (tmp_path / "to-client" / copy / file).is_symlink()
        for copy in ("copy-1", "copy-2")
        for file in ("config.json", "tokenizer.json")
    )
    public = b"".join(
        file.read_bytes() for file in (tmp_path / "to-client").rglob("*") if file.is_file()
    )
    assert COMMIT.encode() not in public
    assert b"org/tiny" not in public


@pytest.mark.parametrize("name", ["org/other", "hf://org/tiny@v2"])
def test_a_model_that_is_not_cached_is_one_line(name, cached, tmp_path):
    """Exit 3, the id, and how to download it; nothing is written."""
    done = _mpu(cached, tmp_path, "perturb", name, "--handoff", "to-client", "--secret", "server")
    assert done.returncode == 3
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"mpu: error: {name}: ")
    assert "hf download" in lines[1]
    assert not (tmp_path / "to-client").exists()
    assert not (tmp_path / "server").exists()
