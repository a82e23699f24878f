"""What every command takes.

`-v` and `-q`, and `--config FILE.yaml` with options by their long names.

Flags win over the file; an unknown key in it is an error that names the nearest.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mpu_cli.errors import UsageError
from mpu_cli.registry import did_you_mean

VERBOSE = "Say more on stderr."
QUIET = "One line for what was made; no progress, no notes. Warnings and errors stay."


class ConfigCommand(TyperCommand):
    """A command whose defaults may come from a file, and which takes -v and -q as `mpu` itself does."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        super().__init__(*positional, **named)
        self.params += _voice_options()

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Read the file named by --config before the arguments are parsed, so that flags win over it."""
        path = _config_path(args)
        if path is not None:
            extra["default_map"] = self._defaults(path)
        return super().make_context(info_name, args, parent, **extra)

    def _defaults(self, path: Path) -> dict[str, Any]:
        names = {}
        for parameter in self.params:
            for option in [*parameter.opts, *parameter.secondary_opts, f"--{parameter.name}"]:
                if option.startswith("--") and option not in {"--config", "--help"}:
                    names[option.removeprefix("--")] = parameter.name
        defaults: dict[str, Any] = {}
        for key, value in _read(path).items():
            if key not in names:
                raise UsageError(
                    f"{path}: unknown option {key!r}", did_you_mean(str(key), sorted(names))
                )
            # Lists are written with commas on the command line, unless the option itself may be
            # repeated.
            repeated = next(item for item in self.params if item.name == names[key]).multiple
            if repeated:
                defaults[names[key]] = [
                    str(one) for one in (value if isinstance(value, list) else [value])
                ]
            else:
                defaults[names[key]] = (
                    ",".join(map(str, value)) if isinstance(value, list) else value
                )
        return defaults


def _voice_options() -> list[Any]:
    def hear(context: typer.Context, parameter: typer.CallbackParam, value: bool) -> None:
        if value:
            set_voice(context, str(parameter.name))

    def command(
        verbose: Annotated[
            bool, typer.Option("--verbose", "-v", help=VERBOSE, callback=hear, expose_value=False)
        ] = False,
        quiet: Annotated[
            bool, typer.Option("--quiet", "-q", help=QUIET, callback=hear, expose_value=False)
        ] = False,
    ) -> None:
        """Holds the options: typer makes them for functions only."""

    # Annotations of a function inside another one cannot be found by their names.
    command.__annotations__ = inspect.get_annotations(command, eval_str=True, locals={"hear": hear})
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command()(command)
    return list(typer.main.get_command(single).params)


def set_voice(context: Any, name: str) -> None:
    """Remember that "verbose" or "quiet" was asked for, before or after the command's name.

    Raises:
        UsageError: both were.
    """
    voice = context.find_root().obj
    voice[name] = True
    if voice.get("verbose") and voice.get("quiet"):
        raise UsageError("--verbose and --quiet contradict each other", "give one of them")


def wants_json(args: list[str]) -> bool:
    """Whether a command line asks for JSON, by --json or in its config file (which may be what is wrong)."""
    path = _config_path(args)
    try:
        return "--json" in args or (path is not None and _read(path).get("json") is True)
    except UsageError:
        return False


def _config_path(args: list[str]) -> Path | None:
    for position, argument in enumerate(args):
        if argument == "--":
            break
        if argument == "--config" and position + 1 < len(args):
            return Path(args[position + 1])
        if argument.startswith("--config="):
            return Path(argument.removeprefix("--config="))
    return None


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise UsageError(f"--config {path}{line}: not valid YAML") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: expected a map of option names to values")
    return content
