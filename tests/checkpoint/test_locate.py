"""MODEL as users write it: a directory or a Hub id, offline from a cache made by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.checkpoint.locate import locate
from mpu_cli.errors import BadModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = """
import json, sys
from mpu_cli.checkpoint.locate import locate
from mpu_cli.errors import BadModelError
found = {}
for name in sys.argv[1:]:
    try:
        located = locate(name)
        found[name] = [str(located.path), located.source]
    except BadModelError as error:
        found[name] = [error.message, error.hint]
print(json.dumps(found))
"""


def make_cache(home: Path, model: Path, repo: str = "org/tiny") -> Path:
    """A cache as huggingface_hub leaves it: refs/main, and a snapshot of links into blobs."""
    root = home / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / COMMIT
    for folder in (root / "refs", root / "blobs", snapshot):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    for number, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, root / "blobs" / f"{number:064x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{number:064x}")
    return snapshot


@pytest.fixture
def look_up(tmp_path, tiny_pair):
    """Locate names in a process of its own, offline, with a prepared cache: the Hub's library reads its settings once."""
    snapshot = make_cache(tmp_path / "home", tiny_pair("llama").model)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_CACHE", None)

    def run(*names: str) -> dict[str, list[str | None]]:
        done = subprocess.run(
            [sys.executable, "-c", CODE, *names], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    run.snapshot = snapshot
    return run


def test_a_hub_id_is_found_in_the_cache_and_its_commit_resolved(look_up):
    """org/name, hf://org/name and @revision (branch or commit) give the snapshot and its commit."""
    names = ["org/tiny", "hf://org/tiny", "org/tiny@main", "hf://org/tiny@main", f"org/tiny@{COMMIT}"]
    assert look_up(*names) == {name: [str(look_up.snapshot), f"org/tiny@{COMMIT}"] for name in names}


def test_an_id_that_the_cache_does_not_have_is_one_clear_line(look_up):
    """Offline, a missing model or revision says how to get it."""
    for name, (message, hint) in look_up("org/other", "hf://org/tiny@v2", "org/tiny@" + "f" * 40).items():
        assert message is not None
        assert message.startswith(f"{name}: ")
        assert "\n" not in message
        assert hint is not None
        assert "hf download org/" in hint


def test_an_existing_path_wins_over_an_id(look_up, tmp_path):
    """A directory org/tiny below the working directory is that directory, not the Hub's model."""
    (tmp_path / "org" / "tiny").mkdir(parents=True)
    assert look_up("org/tiny") == {"org/tiny": ["org/tiny", None]}


@pytest.mark.parametrize("name", ["/no/such", "./org/tiny", "../org/tiny", "tiny", "a/b/c", "org/ti ny", "s3://org/tiny", "org/tiny@"])
def test_what_is_neither_a_path_nor_an_id_is_refused(name, tmp_path, monkeypatch):
    """The Hub is not asked, and the message says both forms."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadModelError) as caught:
        locate(name)
    assert caught.value.message == f"{name}: no such model directory"
    assert "org/name" in (caught.value.hint or "")
