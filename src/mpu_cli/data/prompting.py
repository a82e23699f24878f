"""What stands around a row in a prompt, fixed for all rows.

A system prompt, a chat template's variables, and its date.

These settings are a part of the recipe: two copies, or two evaluations, whose prompts differ are
not alike.
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

DATE = "2024-07-26"
"""Today's date to every template: the one that Llama 3.2's template falls back to where it cannot ask for the clock."""
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
"""Names that a template reads and that are not the user's to set."""


@dataclass(frozen=True, slots=True)
class Prompting:
    """The settings of all prompts of a run.

    Raises:
        UsageError: a value is outside its range; the message names the flag.
    """

    system: str | None = None
    """A system turn before every pair, and before every chat that does not begin with one of its own."""
    variables: tuple[tuple[str, str], ...] = ()
    """(name, value as JSON), sorted by name: what the chat template can read beside the turns."""
    date: str = DATE
    """The day that a template sees as today, YYYY-MM-DD."""
    content_parts: bool = False
    """Give a template the content of a turn as a list of one text part instead of a string."""

    def __post_init__(self) -> None:
        """Check every value."""
        if self.system is not None and not self.system.strip():
            raise UsageError("--system-prompt is empty", "leave it out for none")
        try:
            if self.day.isoformat() != self.date:
                raise ValueError
        except ValueError:
            raise UsageError(f"--template-date {self.date}: expected a day as 2024-07-26") from None

    @classmethod
    def of(
        cls,
        system: str | None,
        assignments: Sequence[str] | None,
        day: str | None = None,
        *,
        content_parts: bool = False,
    ) -> Prompting:
        """From options: `assignments` are NAME=VALUE, where a value that is JSON (false, 3, "3") is that, and any other a text.

        Raises:
            UsageError: an assignment is malformed, is given twice, or sets what is not the user's
                to set.
        """
        variables: dict[str, str] = {}
        for assignment in assignments or ():
            name, equals, text = assignment.partition("=")
            if (
                not equals
                or not name.isidentifier()
                or keyword.iskeyword(name)
                or name.startswith("_")
            ):
                raise UsageError(
                    f"--template-var {assignment}: expected NAME=VALUE",
                    "for example --template-var enable_thinking=false",
                )
            if name in RESERVED:
                raise UsageError(
                    f"--template-var {name}: this name is not yours to set", f"see {page('data')}"
                )
            if name in variables:
                raise UsageError(f"--template-var {name} is given twice", "give it once")
            variables[name] = _as_json(text)
        return cls(
            system, tuple(sorted(variables.items())), DATE if day is None else day, content_parts
        )

    @property
    def day(self) -> Day:
        """`date` as a date."""
        return Day.fromisoformat(self.date)

    def told(self) -> dict[str, Any]:
        """What a record says of them.

        The system prompt by its SHA-256 in hex, since a record holds no text.
        """
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
"""No system prompt, no variables, the usual date."""
