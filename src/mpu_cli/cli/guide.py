"""Who runs a command, in one line what it does, and examples.

What `mpu --help` and `mpu COMMAND --help` print of it.

Every file of `cli/commands/` has one, `GUIDE`. The examples run as they stand, in the order of a
round, where model, base, forget.jsonl, retain.jsonl, holdout.jsonl and forget.csv are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Who = Literal["server", "client", "both", "newcomer"]
HEADINGS: dict[Who, str] = {
    "server": "Commands of the server (who owns the model)",
    "client": "Commands of the client (who owns the data)",
    "both": "Commands of both",
    "newcomer": "To see it all",
}
"""In the order of the list of commands."""
_RUN_BY: dict[Who, str] = {
    "server": "the server, who owns the model",
    "client": "the client, who owns the data",
    "both": "the server and the client",
    "newcomer": "whoever wants to see how it works",
}


@dataclass(frozen=True, slots=True)
class Guide:
    """What the help of a command adds to its docstring."""

    who: Who
    summary: str
    """For the list of commands: short enough to be printed whole on 80 columns."""
    examples: tuple[str, ...]
    """Command lines; a long one is broken by a backslash, as a shell reads it."""

    def added_to(self, text: str) -> str:
        """The help of a command: its docstring, who runs it, examples (\\b keeps their lines)."""
        heading = "Example:" if len(self.examples) == 1 else "Examples:"
        lines = [f"  {line}" for example in self.examples for line in example.splitlines()]
        return "\n".join(
            [text.rstrip(), "", f"Run by {_RUN_BY[self.who]}.", "", "\b", heading, *lines]
        )
