"""The command class of all commands: options from `--config FILE.yaml`, and help in sections.

Options on the command line win over the file. An unknown key in the file is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from mpu_cli.errors import UsageError
from mpu_cli.option import PANELS
from mpu_cli.registry import did_you_mean

if TYPE_CHECKING:
    from mpu_cli.experiment.plan.document import Document

VERBOSE = "Print more on standard error."
QUIET = "Print one line about the result, and no progress or notes. Warnings and errors stay."


class ConfigCommand(TyperCommand):
    """A command whose defaults may come from a file."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Read the file of `--config` before the arguments are parsed, so that they win over it."""
        path = _config_path(args)
        if path is not None:
            extra["default_map"] = self._defaults(path)
        return super().make_context(info_name, args, parent, **extra)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The arguments of the usage line; one in brackets may be left out."""
        arguments = [item for item in self.params if item.param_type_name == "argument"]
        names = [str(item.metavar) if item.required else f"[{item.metavar}]" for item in arguments]
        return ["[OPTIONS]", *names]

    def sections(self, ctx: Any) -> dict[str, list[tuple[str, str]]]:
        """The arguments, and the options by panel: what stands for each, and its help."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": []}
        sections |= {panel: [] for panel in PANELS}
        parameters: list[Any] = self.get_params(ctx)  # typer's, which have a help and a panel
        for item in parameters:
            if item.param_type_name == "argument":
                sections["Arguments"].append((str(item.metavar), item.help))
            elif (record := item.get_help_record(ctx)) is not None:
                sections[item.rich_help_panel or "General"].append(record)
        return {heading: records for heading, records in sections.items() if records}

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Print each section under its heading."""
        for heading, records in self.sections(ctx).items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def _defaults(self, path: Path) -> dict[str, Any]:
        parameters = {}
        for item in self.params:
            for option in [*item.opts, *item.secondary_opts, f"--{item.name}"]:
                if option.startswith("--") and option not in {"--config", "--help"}:
                    parameters[option.removeprefix("--")] = item
        defaults: dict[str, Any] = {}
        document = _read(path)
        for key, value in document.content.items():
            if key not in parameters:
                raise document.wrong(
                    (key,), f"unknown option {key!r}", did_you_mean(key, sorted(parameters))
                )
            values = value if isinstance(value, list) else [value]
            _check_kind(document, key, values, is_switch=getattr(parameters[key], "is_flag", False))
            # The command line has a list with commas, or an option or argument that is repeated.
            if f"--{key}" in parameters[key].secondary_opts:
                if not isinstance(value, bool):
                    raise document.wrong((key,), f"is {value}, expected true or false")
                value = not value
            elif parameters[key].multiple or parameters[key].nargs < 0:
                value = [str(item) for item in values]
            elif isinstance(value, list):
                value = ",".join(map(str, values))
            defaults[parameters[key].name] = value
        return defaults


def set_voice(context: Any, name: str) -> None:
    """Remember "verbose" or "quiet", which may stand before or after the command's name.

    Raises:
        UsageError: both were given.
    """
    voice = context.find_root().obj
    voice[name] = True
    if voice.get("verbose") and voice.get("quiet"):
        raise UsageError("--verbose and --quiet contradict each other", "give one of them")


def wants_json(args: list[str]) -> bool:
    """Whether a command line asks for JSON, by `--json` or in its config file.

    A config file that cannot be read asks for nothing; its error is about to be reported.
    """
    path = _config_path(args)
    try:
        return "--json" in args or (path is not None and _read(path).content.get("json") is True)
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


def _read(path: Path) -> Document:
    from mpu_cli.checkpoint.read_file import read_file
    from mpu_cli.experiment.plan.document import MAX_BYTES, Document, parse_document

    name = f"--config {path}"
    try:
        data = read_file(path, MAX_BYTES, UsageError, "give a YAML file that you may read")
    except UsageError as error:
        raise UsageError(f"--config {error.message}", error.hint) from error
    if not any(line and not line.startswith(b"#") for line in map(bytes.strip, data.split(b"\n"))):
        return Document(name, {})
    return parse_document(data, name)


def _check_kind(document: Document, key: str, values: list[Any], *, is_switch: bool) -> None:
    """Refuse what the conversion to text would turn into another value: true is the number 1.

    Raises:
        UsageError: a map or a list in a list, or true or false where a value is expected.
    """
    for value in values:
        if isinstance(value, dict | list):
            raise document.wrong((key,), "expected a value or a list of values")
        if isinstance(value, bool) and not is_switch:
            raise document.wrong((key,), f"is {str(value).lower()}, expected a value")
