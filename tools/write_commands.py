"""Write docs/commands.md from the commands themselves: `make docs/commands.md`.

Each section is what `mpu COMMAND --help` prints, as tables.
"""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from typing import Any

import typer

from mpu_cli.cli import commands
from mpu_cli.cli.app import app
from mpu_cli.cli.guide import HEADINGS, Guide

HEAD = """# Commands

What `mpu COMMAND --help` prints, on one page. `make docs/commands.md` writes it from the commands,
and a test compares the two.

Every command also takes `--config FILE`, `--json`, `--verbose` and `--quiet`: see the end.
"""


def main() -> str:
    """The whole page."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD, _overview(group)]
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        subcommands = getattr(command, "commands", {})
        if not subcommands:
            parts.append(_section(name, command, _guide(name)))
        for sub, leaf in subcommands.items():
            parts.append(_section(f"{name} {sub}", leaf, _guide(name, sub)))
    general = group.get_command(None, "inspect")
    records = general.sections(_context("inspect", general))["General"]
    parts.append("## Options of every command\n\n" + _table(records))
    return "\n".join(parts)


def _guide(name: str, subcommand: str = "") -> Guide:
    module = import_module(f"{commands.__name__}.{name}")
    guide: Guide = getattr(module, "GUIDES", {}).get(subcommand, module.GUIDE)
    return guide


def _overview(group: Any) -> str:
    rows = ["| command | what it does |", "|---|---|"]
    for who, heading in HEADINGS.items():
        rows.append(f"| **{heading}** | |")
        for name in group.list_commands(None):
            if (guide := _guide(name)).who == who:
                first = list(getattr(group.get_command(None, name), "commands", {}))[:1]
                anchor = "-".join([name, *first])
                rows.append(f"| [`mpu {name}`](#mpu-{anchor}) | {_cell(guide.summary)} |")
    return "\n".join([*rows, ""])


def _section(words: str, command: Any, guide: Guide) -> str:
    """One command: what it does, its arguments and options by panel, examples."""
    context = _context(words, command)
    text = inspect.cleandoc(inspect.getdoc(command.callback) or "").replace("\b\n", "")
    panels = {name: rows for name, rows in command.sections(context).items() if name != "General"}
    usage = " ".join(command.get_usage(context).removeprefix("Usage: ").split())
    parts = [f"## mpu {words}", "", text, "", f"Usage: `{usage}`", ""]
    for panel, records in panels.items():
        parts += [f"**{panel}**", "", _table(records)]
    return "\n".join([*parts, "**Examples**", "", "```sh", *guide.examples, "```", ""])


def _context(words: str, command: Any) -> Any:
    return command.make_context(f"mpu {words}", [], resilient_parsing=True)


def _table(records: list[tuple[str, str]]) -> str:
    rows = [
        f"| `{' '.join(names.split()).replace('|', chr(92) + '|')}` | {_cell(text)} |"
        for names, text in records
    ]
    return "\n".join(["| | |", "|---|---|", *rows, ""]).replace("` / `", " / ")


def _cell(text: str) -> str:
    """One line, with what Markdown would read as markup escaped."""
    return re.sub(r"([|<>*_\[\]])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    sys.stdout.write(main())
