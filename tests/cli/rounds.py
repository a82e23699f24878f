"""Shared by the tests of the command line: results, directories of a round, a few rows."""

from __future__ import annotations

import json
import pkgutil
import signal
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mpu_cli.cli import commands
from mpu_cli.cli.app import run

FORGET = [
    {"question": f"w{i} w{i + 1} ?", "answer": f"w{i + 2} w{i + 3} w{i + 4} ."}
    for i in range(0, 24, 3)
]
RETAIN = [
    {"question": f"w{i} w{i + 2} ?", "answer": f"w{i + 5} w{i + 1} ."} for i in range(24, 48, 3)
]
QUICK = ("--max-steps", "2", "--batch-size", "4", "--learning-rate", "1e-3", "--method", "GradDiff")

PLAN = """\
model: model
base: base
data: {forget: forget.jsonl, retain: retain.jsonl}
seeds: [1]
unlearn: {max_steps: 2, batch_size: 4, learning_rate: 1e-3}
grid: {method: [GradDiff], kappa: [0.01], copies: [2]}
"""
"""A plan in a directory with the models and rows of a round."""


@dataclass(frozen=True)
class Done:
    """The result of a command line."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one JSON object on stdout."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Round:
    """The directories of one round, of both parties."""

    model: Path
    base: Path
    handoff: Path
    secret: Path
    update: Path
    forget: Path
    retain: Path


def quietly(arguments: tuple[object, ...]) -> int:
    """Run a command line and restore the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


def every_command() -> dict:
    """The function of every command by its words, those of groups one by one."""
    functions = {}
    for module in pkgutil.iter_modules(commands.__path__):
        found = getattr(import_module(f"{commands.__name__}.{module.name}"), module.name)
        parts = getattr(found, "registered_commands", None)  # of a typer.Typer
        if parts is None:
            functions[module.name] = found
        else:
            functions |= {f"{module.name} {part.name}": part.callback for part in parts}
    return functions
