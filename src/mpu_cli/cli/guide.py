"""The guide of a command: who runs it, what it does in one line, and examples.

Every file of `cli/commands/` assigns one to `GUIDE`. `mpu --help` reads it from the source, because
importing a command takes long. The examples can be run as they are, in the order of a round, in a
directory with model, base, forget.jsonl, retain.jsonl, holdout.jsonl and forget.csv.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Literal

Who = Literal["server", "client", "both", "researcher", "newcomer"]
HEADINGS: dict[Who, str] = {
    "server": "Commands of the server (who owns the model)",
    "client": "Commands of the client (who owns the data)",
    "both": "Commands of both",
    "researcher": "Commands of the researcher (who has the model and the data)",
    "newcomer": "To see a whole round first",
}
"""The headings of the list of commands, in its order."""
_RUN_BY: dict[Who, str] = {
    "server": "the server, who owns the model",
    "client": "the client, who owns the data",
    "both": "the server and the client",
    "researcher": "someone who has the model and the data, to find out what to use",
    "newcomer": "anyone who wants to see how it works",
}
_BEGINNING = "\nGUIDE = Guide("


@dataclass(frozen=True, slots=True)
class Guide:
    """What a command adds to its docstring for `mpu --help` and `mpu COMMAND --help`."""

    who: Who
    summary: str
    """One line for the list of commands, short enough for 80 columns."""
    examples: tuple[str, ...]
    """Command lines; a long one is broken by a backslash, as in a shell."""

    def __post_init__(self) -> None:
        """Refuse a `who` that has no heading.

        Raises:
            ValueError: it is none of the known ones.
        """
        if self.who not in HEADINGS:
            raise ValueError(f"GUIDE: who is one of {', '.join(HEADINGS)}, not {self.who!r}")

    def added_to(self, text: str) -> str:
        """The help of a command: its docstring, who runs it, examples (\\b keeps their lines)."""
        heading = "Example:" if len(self.examples) == 1 else "Examples:"
        lines = [f"  {line}" for example in self.examples for line in example.splitlines()]
        return "\n".join(
            [text.rstrip(), "", f"Run by {_RUN_BY[self.who]}.", "", "\b", heading, *lines]
        )


def read_guide(path: Path) -> Guide:
    """The guide in a command's source, without importing the command.

    Raises:
        SyntaxError: the file does not parse.
        ValueError: it has no `GUIDE = Guide(…)` of literals.
    """
    # Python compiles the whole file, or reads what it compiled before: a half-written file fails.
    SourceFileLoader(path.stem, str(path)).get_code(path.stem)
    _, found, rest = path.read_text(encoding="utf-8").partition(_BEGINNING)
    if not found:
        raise ValueError("has no GUIDE = Guide(…)")
    call = _first_expression(f"Guide({rest}")
    keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Guide(*map(ast.literal_eval, call.args), **keywords)  # type: ignore[arg-type]


def _first_expression(text: str) -> ast.Call:
    """The call with which the text begins; to parse the few lines of it is faster than all."""
    lines = text.splitlines()
    for end in range(1, len(lines) + 1):
        try:
            call = ast.parse("\n".join(lines[:end]), mode="eval").body
        except SyntaxError:
            continue
        assert isinstance(call, ast.Call)
        return call
    raise ValueError("GUIDE is not one call")
