"""docs/how-to: the file that a page shows is all that the new thing takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rounds import FORGET, RETAIN

import mpu_cli

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
PACKAGE = Path(mpu_cli.__file__).parent


def code(page: str) -> str:
    """The first Python file that a page shows."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@pytest.fixture
def desk(tiny_pair, tmp_path, monkeypatch) -> Path:
    """A working directory with a model, rows, and a copy of the package."""
    copy = tmp_path / "package" / "mpu_cli"
    shutil.copytree(PACKAGE, copy, copy_function=os.symlink, ignore=lambda *_: ["__pycache__"])
    shutil.copytree(tiny_pair("llama").model, tmp_path / "model")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(desk: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`mpu` in a copy of the package, to which the test adds files."""
    return subprocess.run(
        [sys.executable, "-m", "mpu_cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(desk / "package")},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.slow
def test_the_page_on_commands_adds_one(desk):
    """It is listed, has a help, and runs."""
    (desk / "package/mpu_cli/cli/commands/count.py").write_text(code("add-a-command.md"))
    assert "  count    Count the parameters of a model." in run(desk, "--help").stdout
    assert "Run by the server and the client." in run(desk, "count", "--help").stdout
    counted = json.loads(run(desk, "count", "model", "--json").stdout)["tensors"]
    matrices = json.loads(run(desk, "count", "model", "--matrices", "--json").stdout)["tensors"]
    assert counted > matrices > 5
    assert run(desk, "count", "nowhere").returncode == 3


@pytest.mark.slow
def test_the_pages_on_methods_and_optimizers_add_one_each(desk):
    """Both are listed, and train a model together."""
    package = desk / "package" / "mpu_cli"
    (package / "client/methods/margin_ascent.py").write_text(code("add-a-method.md"))
    (package / "training/optimizers/heavy_ball.py").write_text(code("add-an-optimizer.md"))
    assert "MarginAscent" in run(desk, "unlearn", "--list-methods").stdout
    recipe = ("--method", "MarginAscent", "--set", "margin=4", "--optimizer", "heavy-ball")
    rows = ("--forget", "forget.jsonl", "--retain", "retain.jsonl", "--max-steps", "2")
    done = run(desk, "unlearn", "model", *rows, *recipe, "--out", "after")
    assert done.returncode == 0, done.stderr
    assert (desk / "after" / "model.safetensors").is_file()
