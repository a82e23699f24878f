"""The commands of `mpu`: the files of `cli/commands/`, each imported only when it runs.

Adding a command is adding a file with a function of its name and a `GUIDE`. A group whose commands
have guides of their own lists these in `GUIDES`, by the command's name.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mpu_cli.cli import commands
from mpu_cli.cli.config import ConfigCommand
from mpu_cli.cli.guide import HEADINGS, Guide, read_guide
from mpu_cli.registry import Registry

COMMANDS: Registry[tuple[str, Guide]] = Registry(
    "command",
    Path(commands.__path__[0]),
    lambda path: [(path.stem, read_guide(path))],
    name=lambda entry: entry[0],
)


def guides() -> dict[str, Guide]:
    """The guide of every command, by the command's name; no command is imported."""
    return dict(COMMANDS.entries().values())


class LazyGroup(TyperGroup):
    """Lists the commands by their guides and imports the one that is named."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS.files())  # type: ignore[assignment]

    def get_params(self, ctx: Any) -> list[Any]:
        """Give flags a default: to convert None, typer would import all of pydantic."""
        options: list[Any] = super().get_params(ctx)
        for option in options:
            if option.default is None and getattr(option, "is_flag", False):
                option.default = False
        return options

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command; None if there is none of this name.

        Raises:
            BadInputError: its file is broken.
        """
        return COMMANDS.load(cmd_name, _build) if cmd_name in self.commands else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands by who runs them."""
        entries = guides().items()
        for who, heading in HEADINGS.items():
            rows = [(name, guide.summary) for name, guide in entries if guide.who == who]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Complete a command's name, or an option of `mpu` itself."""
        listed = {name: TyperCommand(name, short_help=it.summary) for name, it in guides().items()}
        group = TyperGroup(commands=dict(listed), params=self.params)
        return group.shell_complete(typer.Context(group), incomplete)


def _build(path: Path) -> Any:
    module = import_module(f"{commands.__name__}.{path.stem}")
    function = getattr(module, path.stem)
    if isinstance(function, typer.Typer):  # a group with subcommands of its own
        command: Any = typer.main.get_command(function)
    else:
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name=path.stem, cls=ConfigCommand)(function)
        command = typer.main.get_command(single)
    for part in (command, *getattr(command, "commands", {}).values()):
        guide = getattr(module, "GUIDES", {}).get(part.name, module.GUIDE)
        part.help = guide.added_to(inspect.cleandoc(part.help))
    return command
