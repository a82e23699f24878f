"""Shared by the tests of the command line: results, directories of a round, a few rows."""

from __future__ import annotations

import json
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mpu_cli.cli import commands
from round_inputs import FORGET, PLAN, QUICK, RETAIN, quietly

__all__ = ["FORGET", "PLAN", "QUICK", "RETAIN", "quietly"]


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
