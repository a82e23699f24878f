"""Read the command line of a step as its command does, without running it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from typing import Any, cast, get_type_hints

import typer

from mpu_cli.cli.app import app, usage_error
from mpu_cli.cli.flags import read_job
from mpu_cli.cli.unlearn_effect import RunInput, refuse_without_effect
from mpu_cli.experiment.plan.commands import WORDS, Commands, Section
from mpu_cli.option import all_options, options_of

_MODULES = {"audit": "mpu_cli.cli.audit_handoff"}


def commands() -> Commands:
    """What a plan needs to know of the commands of its steps."""
    options = {
        section: {item.name: item for item in all_options(_job_class(section))} for section in WORDS
    }
    return Commands(options, parse_only)


def parse_only(words: Sequence[str]) -> Mapping[str, Any]:
    """The value of every option that a command line has in effect, by the option's name.

    Raises:
        UsageError: an option is unknown or out of range, or contradicts another.
    """
    section = words[0]
    arguments = list(words[len(WORDS[cast(Section, section)]) :])
    try:
        context = _command(section).make_context(section, arguments, obj={"arguments": list(words)})
    except typer.TyperException as error:
        raise usage_error(error) from error
    job = read_job(_job_class(section), context)
    if section == "unlearn":
        is_given = {name: bool(getattr(job, name)) for name in ("retain", "refusals")}
        refuse_without_effect(
            job.training, RunInput(is_handoff=True, texts=True, **is_given), job.given
        )
    return dict(_values(job))


@cache
def _command(section: str) -> Any:
    """The command's object, made once: typer takes 30 ms for it."""
    group: Any = typer.main.get_command(app)
    command = group.get_command(typer.Context(group), section)
    return command.commands["handoff"] if section == "audit" else command


@cache
def _job_class(section: str) -> Any:
    module = import_module(_MODULES.get(section, f"mpu_cli.cli.commands.{section}"))
    function = getattr(module, "handoff" if section == "audit" else section)
    return get_type_hints(inspect.unwrap(function))["job"]


def _values(settings: Any) -> Iterator[tuple[str, Any]]:
    kind: Any = type(settings)
    for declared in options_of(kind):
        yield declared.name, getattr(settings, declared.field)
    for item in fields(settings):
        if is_dataclass(part := getattr(settings, item.name)):
            yield from _values(part)
