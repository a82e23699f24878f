"""A half-written file of a registry is named and skipped, and stops no other command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mpu_cli

PACKAGE = Path(mpu_cli.__file__).parent
MODEL = PACKAGE / "demo" / "assets" / "model"
DRAFTS = {
    "cli/commands/draft.py": 'GUIDE = Guide("both", "A draft.", ("mpu draft",))\n\ndef draft(:\n',
    "client/methods/draft.py": '@method(name="Draft",\n',
    "evaluation/metrics/draft.py": "METRICS = (\n",
    "evaluation/robustness/draft.py": "import nonexistent_module\n",
    "training/optimizers/draft.py": "@optimizer(\n",
    "server/transforms/kinds/draft.py": "def draw(layer,\n",
    "architectures/families/draft.yaml": "model_types: [llama\n",
}
"""By place, relative to the package."""
READERS = {
    ("--help",): ("cli/commands/draft.py",),
    ("inspect", str(MODEL)): (
        "server/transforms/kinds/draft.py",
        "architectures/families/draft.yaml",
    ),
    ("verify", str(MODEL)): ("architectures/families/draft.yaml",),
    ("unlearn", "--list-methods"): ("client/methods/draft.py",),
    ("eval", "--list-metrics"): ("evaluation/metrics/draft.py", "evaluation/robustness/draft.py"),
    ("--version",): (),
}
"""The drafts that a command names, by command."""


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the package in which every registry has a half-written file."""
    root = tmp_path_factory.mktemp("package")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, root / "mpu_cli", copy_function=os.symlink, ignore=ignored)
    for place, text in DRAFTS.items():
        (root / "mpu_cli" / place).write_text(text)
    return root


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `mpu` of the copy."""
    return subprocess.run(
        [sys.executable, "-m", "mpu_cli", *arguments],
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(line, marks=[pytest.mark.slow] * (line[0] == "eval"), id=" ".join(line[:1]))
        for line in READERS
    ],
)
def test_a_half_written_file_is_named_and_skipped(copy, arguments):
    """The command succeeds and names each broken file that it came upon, once."""
    done = run(copy, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    warned = sorted(line for line in lines if line.startswith("mpu: warning: "))
    assert len(warned) == len(READERS[arguments])
    for line, place in zip(warned, sorted(READERS[arguments]), strict=True):
        assert line.startswith(f"mpu: warning: {copy / 'mpu_cli' / place}: ")
        assert line.endswith("is skipped")


def test_asking_for_a_half_written_file_says_what_is_wrong_with_it(copy):
    """A command by its name: exit code 3, file and line."""
    done = run(copy, "draft")
    assert done.returncode == 3
    assert f"mpu: error: {copy}/mpu_cli/cli/commands/draft.py: line 3: " in done.stderr
