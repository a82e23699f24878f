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
from mpu_cli.cli import commands

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
    """A working directory with a model and rows."""
    shutil.copytree(tiny_pair("llama").model, tmp_path / "model")
    for name, rows in (("forget", FORGET), ("retain", RETAIN)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_commands_adds_one(desk, mpu, monkeypatch):
    """It is listed, has a help, and runs."""
    folder = desk / "commands"
    folder.mkdir()
    (folder / "count.py").write_text(code("add-a-command.md"), encoding="utf-8")
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(folder)])
    assert "  count    Count the parameters of a model." in mpu("--help").out
    assert "Run by the server and the client." in mpu("count", "--help").out
    assert mpu("count", "model", "--json").json["tensors"] > 10
    assert mpu("count", "nowhere").code == 3


@pytest.mark.slow
def test_the_pages_on_methods_and_optimizers_add_one_each(desk):
    """Both are listed, and train a model together, in a copy of the package with the two files."""
    copy = desk / "package" / "mpu_cli"
    shutil.copytree(PACKAGE, copy, copy_function=os.symlink, ignore=lambda *_: ["__pycache__"])
    (copy / "client/methods/margin_ascent.py").write_text(code("add-a-method.md"))
    (copy / "training/optimizers/heavy_ball.py").write_text(code("add-an-optimizer.md"))
    recipe = ["--method", "MarginAscent", "--set", "margin=4", "--optimizer", "heavy-ball"]
    rows = ["--forget", "forget.jsonl", "--retain", "retain.jsonl"]
    for arguments, said in (
        (["--list-methods"], "MarginAscent"),
        (["model", *rows, *recipe, "--max-steps", "2", "--out", "after"], "after"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "mpu_cli", "unlearn", *arguments],
            env={**os.environ, "PYTHONPATH": str(copy.parent)},
            capture_output=True,
            encoding="utf-8",
        )
        assert (done.returncode, said in done.stdout) == (0, True), done.stderr
    assert (desk / "after" / "model.safetensors").is_file()
