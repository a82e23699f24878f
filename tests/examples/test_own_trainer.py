"""The own-trainer example as it is written: full weights with fewer steps, and adapters."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpu_cli.bundle.read import read_update

EXAMPLE = Path(__file__).parents[2] / "examples" / "own-trainer"


def make(work, *options):
    """Run make; its failure is the test's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [
        "make",
        "-s",
        "-C",
        str(EXAMPLE),
        f"PYTHON={sys.executable}",
        f"WORK={work}",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    return done.stdout


def losses(output):
    """(forget, retain) by model, from the last lines."""
    return {
        line.split()[0]: tuple(map(float, line.split()[1:])) for line in output.splitlines()[-2:]
    }


@pytest.mark.slow
def test_a_plain_loop_unlearns(tmp_path):
    """With a trainer that does not know mpu, forget rows lose much and retain rows little."""
    found = losses(make(tmp_path, "STEPS=10"))
    assert [copy.payload for copy in read_update(tmp_path / "server/to-server").copies] == [
        "delta",
        "delta",
    ]
    assert found["model-next"][0] > found["model"][0] + 0.1
    assert found["model-next"][1] < found["model"][1] + 0.1


@pytest.mark.slow
def test_pefts_adapters_unlearn_too(tmp_path):
    """`make LORA=4`: what crosses are peft's two files for each copy."""
    found = losses(make(tmp_path, "LORA=4"))
    assert [copy.payload for copy in read_update(tmp_path / "server/to-server").copies] == [
        "lora",
        "lora",
    ]
    assert found["model-next"][0] > found["model"][0] + 0.5


def test_the_trainer_knows_nothing_of_mpu():
    """The script imports torch, transformers and peft only, and nothing of mpu."""
    tree = ast.parse((EXAMPLE / "unlearn.py").read_text())
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= {
        "argparse",
        "json",
        "random",
        "pathlib",
        "torch",
        "transformers",
        "peft",
    }
