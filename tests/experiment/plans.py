"""Plans for the tests: the demo's model and rows, and a plan as text."""

from __future__ import annotations

from pathlib import Path

import yaml

from mpu_cli.cli.parse_only import commands
from mpu_cli.demo.demonstration import assets
from mpu_cli.experiment.graph import build
from mpu_cli.experiment.plan.read import read_plan
from mpu_cli.experiment.runs import Experiment

COMMANDS = commands()


def small(**changes) -> dict:
    """A small plan on the demo's assets; a value of None leaves its key out."""
    content = {
        "model": str(assets() / "model"),
        "base": str(assets() / "base"),
        "data": {role: str(assets() / f"{role}.jsonl") for role in ("forget", "retain")},
        "seeds": [1],
        "unlearn": {"optimizer": "adamw", "learning_rate": 1e-4, "max_steps": 2},
        "grid": {"method": ["GradDiff"], "kappa": [0.1], "copies": [2]},
    }
    content |= changes
    return {key: value for key, value in content.items() if value is not None}


def written(directory: Path, content: dict | str) -> Path:
    """A plan file."""
    path = directory / "plan.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path


def built(directory: Path, content: dict | str) -> Experiment:
    """The experiment of a plan."""
    return build(read_plan(written(directory, content), COMMANDS), COMMANDS)
