"""A broken input, and what every command that reads it must do."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from testkit.world import World

KIND = {
    "handoff": "BadBundle",
    "handoff in shards": "BadBundle",
    "update": "BadBundle",
    "update in shards": "BadBundle",
    "LoRA update": "BadBundle",
    "masked update": "BadBundle",
    "secret": "BadSecret",
    "record": "BadData",
    "model": "BadModel",
    "model in shards": "BadModel",
    "plan": "Usage",
    "rows": "BadData",
}
"""The error class (`kind` of --json) of exit code 3, by the thing that is broken."""
UNSEEN = {"inspect": "0"}
"""`inspect` reads a bundle's manifest and an update's headers; verify checks the rest."""

OTHER_HANDOFF = dict.fromkeys(("mask update", "eval", "audit handoff", "audit update"), "1 Gate")
"""What commands say that compare a handoff's digest with an update or with the secret."""


@dataclass(frozen=True)
class Case:
    """One broken input."""

    name: str
    thing: str
    """A key of `KIND`."""
    damage: Callable[[Path, World], Path | None]
    """Break a fresh copy in place; it may return another path to give, such as a tar file's."""
    expect: str = ""
    """`CODE KIND` of every command, or `0`; by default `3` and the thing's kind."""
    but: Mapping[str, str] = field(default_factory=dict)
    """Commands for which something else holds."""
    why: str = ""
    """Required where a command accepts the input: why that is right."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Commands that do not yet do it, and who will mend it. The test fails once they do."""
    skip: tuple[str, ...] = ()
    """Commands that do not read the broken part."""

    slow: bool = False
    """Takes seconds: only in the slow suite."""

    def expected(self, command: str) -> str:
        """What holds for one command."""
        default = "2 Usage" if self.thing == "plan" else f"3 {KIND[self.thing]}"
        return self.but.get(command) or self.expect or default


@dataclass(frozen=True)
class Family:
    """Cases that are broken in the same way."""

    name: str
    about: str
    """One sentence for the documentation."""
    cases: tuple[Case, ...]


def families() -> dict[str, Family]:
    """Every family, by name: one module each in testkit/families."""
    from testkit import families as package

    found = {}
    for module in sorted(item.name for item in pkgutil.iter_modules(package.__path__)):
        loaded = import_module(f"{package.__name__}.{module}")
        name = module.replace("_", " ")
        found[name] = Family(name, loaded.__doc__.partition("\n")[0], tuple(loaded.cases()))
    return found


def all_cases(found: Iterable[Family] = ()) -> list[tuple[str, Case]]:
    """Every case with the name of its family."""
    return [(family.name, case) for family in found or families().values() for case in family.cases]
