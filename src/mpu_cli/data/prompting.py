"""The part of a prompt that is the same for all rows: system prompt, template variables, date.

These settings are a part of the recipe: prompts that differ make two copies, or two evaluations,
incomparable.
"""

from __future__ import annotations

import json
import keyword
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date as Day
from hashlib import sha256
from typing import Any

from mpu_cli.documentation import page
from mpu_cli.errors import UsageError
from mpu_cli.option import option

DATE = "2024-07-26"
"""Today's date in every template: the one that the template of Llama 3.2 takes without a clock."""
RESERVED = frozenset(
    {
        "messages",
        "add_generation_prompt",
        "tools",
        "documents",
        "strftime_now",
        "raise_exception",
        "lipsum",
    }
)
"""Names that a template reads and a user must not set."""


def parse_variables(assignments: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read NAME=VALUE texts as (name, value as JSON), sorted by name.

    A value that is JSON (false, 3, "3") keeps its type; any other value is a text.

    Raises:
        UsageError: an assignment is malformed or repeated, or its name is reserved.
    """
    variables: dict[str, str] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        is_name = name.isidentifier() and not keyword.iskeyword(name) and not name.startswith("_")
        if not equals or not is_name:
            raise UsageError(
                f"--template-var {assignment}: expected NAME=VALUE",
                "for example --template-var enable_thinking=false",
            )
        if name in RESERVED:
            raise UsageError(f"--template-var {name}: this name is reserved", f"see {page('data')}")
        if name in variables:
            raise UsageError(f"--template-var {name} is given twice", "give it once")
        variables[name] = _as_json(text)
    return tuple(sorted(variables.items()))


@dataclass(frozen=True, slots=True)
class Prompting:
    """The settings of all prompts of a run.

    Raises:
        UsageError: a value is malformed.
    """

    system: str | None = option(
        None,
        "System prompt before every pair, and before every chat that has none of its own.",
        panel="Data",
        flag="--system-prompt",
        metavar="TEXT",
    )
    variables: tuple[tuple[str, str], ...] = option(
        (),
        "Variable of the chat template, for example enable_thinking=false. Repeatable.",
        flag="--template-var",
        metavar="NAME=VALUE",
        parse=parse_variables,
        repeated=True,
    )
    date: str = option(
        DATE,
        "Date that the chat template uses as today's.",
        flag="--template-date",
        metavar="YYYY-MM-DD",
    )
    content_parts: bool = option(
        False, "Pass each turn to the chat template as a list of one text part instead of a string."
    )

    def __post_init__(self) -> None:
        """Check every value."""
        if self.system is not None and not self.system.strip():
            raise UsageError("--system-prompt is empty", "leave it out for no system prompt")
        try:
            if self.day.isoformat() != self.date:
                raise ValueError
        except ValueError:
            raise UsageError(
                f"--template-date {self.date}: expected a date such as 2024-07-26"
            ) from None

    @property
    def day(self) -> Day:
        """`date` as a date."""
        return Day.fromisoformat(self.date)

    def for_record(self) -> dict[str, Any]:
        """The settings for a record, with the system prompt's SHA-256: a record holds no text."""
        system = None if self.system is None else sha256(self.system.encode()).hexdigest()
        return {
            "system_prompt": system,
            "variables": self.values,
            "date": self.date,
            "content_parts": self.content_parts,
        }

    @property
    def values(self) -> dict[str, Any]:
        """The variables by name."""
        return {name: json.loads(value) for name, value in self.variables}


def _as_json(text: str) -> str:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError):
        value = text
    return json.dumps(value, sort_keys=True)


PLAIN = Prompting()
"""The default settings."""
