"""From a command's settings class to its options, and back to one typed object."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from mpu_cli.cli.config import QUIET, VERBOSE, set_voice
from mpu_cli.cli.output import Output
from mpu_cli.errors import MpuError, UsageError
from mpu_cli.option import REQUIRED, Declared, Settings, all_options, option, options_of, parts_of

Given = Mapping[str, tuple[str, ...]]
"""The options that the user gave, by flag, with their values as text; a switch has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Settings):
    """Base of the classes that hold a command's options."""

    given: Given = field(default_factory=dict)

    @classmethod
    def preset(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Other defaults, by option name, for the options that the user did not give.

        Args:
            given: the values that the user gave, by option name.
        """
        return {}


@dataclass(frozen=True, slots=True)
class General:
    """The options of every command."""

    verbose: bool = option(False, VERBOSE, panel="General", short="-v")
    quiet: bool = option(False, QUIET, short="-q")
    json: bool = option(
        False,
        "Print one JSON object on standard output and nothing else.",
    )
    config: Path | None = option(
        None,
        "Read options from this YAML file, by their long names. Options on the command line win.",
        metavar="FILE",
    )


J = TypeVar("J", bound=Job)


def command(*, joint: bool = False) -> Callable[[Callable[[J, Output], None]], Callable[..., None]]:
    """Make a command of a function of its settings and its output.

    Args:
        joint: torchrun may start it in several processes that work together.
    """

    def decorate(run: Callable[[J, Output], None]) -> Callable[..., None]:
        job_class: type[J] = get_type_hints(run)["job"]
        declared = [*all_options(job_class), *options_of(General)]

        @wraps(run)
        def invoke(context: typer.Context, **values: Any) -> None:
            for name in ("verbose", "quiet"):
                if values[name]:
                    set_voice(context, name)
            with _processes(context, bool(values["json"]), joint=joint) as output:
                run(read_job(job_class, context), output)

        parameters = [inspect.Parameter("context", _KEYWORD, annotation=typer.Context)]
        parameters += [_parameter(item) for item in declared]
        invoke.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        invoke.__annotations__ = {item.name: item.annotation for item in parameters}
        return invoke

    return decorate


_METAVARS: Mapping[type, str] = {int: "N", float: "NUMBER"}
_NOT_GIVEN: tuple[object, ...] = (None, [], ())
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


@contextmanager
def _processes(context: typer.Context, as_json: bool, *, joint: bool) -> Iterator[Output]:
    """The output of this process; of several that work together only the first one speaks."""
    if not joint:
        yield Output(context, as_json=as_json)
        return
    from mpu_cli.modeling import processes

    silent = not processes.this_process().is_first
    output = Output(context, as_json=as_json, silent=silent)
    try:
        processes.check_launch()
        if (alone := processes.leave_allocation()) is not None:
            output.warn(alone)
        yield output
    except MpuError as error:
        # Every process raises the same error, and the first one reports it.
        if not silent or os.environ.get("MPU_DEBUG") == "1":
            raise
        raise typer.Exit(error.exit_code) from error
    finally:
        processes.leave()


def _is_from_environment(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def _parameter(item: Declared) -> inspect.Parameter:
    """The parameter that typer reads. No value means that the option was not given."""
    spec, kind = item.option, str if item.option.parse else item.type
    kind = list[kind] if spec.repeated else kind  # type: ignore[valid-type]
    info: dict[str, Any] = {
        "help": item.full_help,
        "metavar": spec.metavar or "|".join(item.choices) or _METAVARS.get(item.type, item.flag),
        "show_default": False,
        "envvar": spec.environment,
        "show_envvar": False,
        "autocompletion": _completion(item),
        "callback": _validation(item),
    }
    declaration = (
        typer.Argument(**info)
        if item.is_positional
        else typer.Option(
            *filter(None, (spec.flag or item.flag, spec.short)), **info, rich_help_panel=spec.panel
        )
    )
    kind = kind if item.is_required else kind | None  # type: ignore[assignment]
    default = inspect.Parameter.empty if item.is_required else None
    return inspect.Parameter(
        item.name, _KEYWORD, annotation=Annotated[kind, declaration], default=default
    )


def _validation(item: Declared) -> Callable[[Any], Any] | None:
    """Parse the text while the command line is read, so that its error comes first."""
    parse = item.option.parse

    def validate(value: Any) -> Any:
        if parse is not None and value:
            parse(value)
        return value

    return None if parse is None else validate


def _completion(item: Declared) -> Callable[[str], list[str]] | None:
    """In lower case where the word was begun so: shells compare letter by letter."""
    if not item.choices and item.option.names is None:
        return None

    def complete(incomplete: str) -> list[str]:
        names = item.choices or (item.option.names() if item.option.names else ())
        found = [name for name in names if name.lower().startswith(incomplete.lower())]
        return [name if name.startswith(incomplete) else name.lower() for name in found]

    return complete


def read_job(job_class: type[J], context: typer.Context) -> J:
    """The typed job of a command line that typer has read.

    Raises:
        UsageError: a value is out of range, or two options contradict each other.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if value not in _NOT_GIVEN and not _is_from_environment(context, name)
    }
    preset = {name: value for name, value in job_class.preset(given).items() if name not in given}
    words = {
        item.flag: _words(given[item.name])
        for item in all_options(job_class)
        if item.name in given and not _is_off(item, given[item.name])
    }
    job: J = _built(job_class, context.params, preset, given=words)
    return job


def _is_off(item: Declared, value: Any) -> bool:
    """Whether a config file sets a switch to false that has no --no- form."""
    return value is False and "/" not in (item.option.flag or "")


def _words(value: Any) -> tuple[str, ...]:
    if isinstance(value, bool):
        return ()
    return tuple(map(str, value)) if isinstance(value, list) else (str(value),)


def _built(settings: Any, values: Mapping[str, Any], preset: Mapping[str, Any], **more: Any) -> Any:
    arguments = dict(more)
    for item in options_of(settings):
        value = values[item.name]
        if value not in _NOT_GIVEN:
            parse = item.option.parse or (tuple if item.option.repeated else None)
            arguments[item.field] = value if parse is None else parse(value)
        elif item.name in preset:
            arguments[item.field] = preset[item.name]
    for name, part in parts_of(settings).items():
        if _is_asked_for(part, values):
            arguments[name] = _built(part, values, preset)
    return settings(**arguments)


def _is_asked_for(part: Any, values: Mapping[str, Any]) -> bool:
    """A part with required options is left out as a whole unless they are given.

    Raises:
        UsageError: another option of the part is given.
    """
    declared = options_of(part)
    missing = [item for item in declared if item.default is REQUIRED and values[item.name] is None]
    for item in declared:
        if missing and values[item.name] not in _NOT_GIVEN:
            raise UsageError(
                f"{item.flag} has no effect without {missing[0].flag}",
                f"give {missing[0].flag} too",
            )
    return not missing
