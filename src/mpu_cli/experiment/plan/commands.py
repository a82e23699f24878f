"""The options that a plan may give to the commands of its steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mpu_cli.option import Declared

Section = Literal["perturb", "unlearn", "aggregate", "eval", "audit"]
"""A section of a plan with options of one command."""
WORDS: Mapping[Section, tuple[str, ...]] = {
    "perturb": ("perturb",),
    "unlearn": ("unlearn",),
    "aggregate": ("aggregate",),
    "eval": ("eval",),
    "audit": ("audit", "handoff"),
}
"""The words of the command of each section."""
AXES_OF: tuple[Section, ...] = ("perturb", "unlearn", "aggregate")
"""Sections whose options may be axes of a grid: those that change the model."""

_EVERYWHERE = frozenset(
    {"force", "dry_run", "pack", "json", "verbose", "quiet", "config", "help", "secret", "model"}
)
_SET_BY_PLAN: Mapping[Section, frozenset[str]] = {
    "perturb": frozenset({"base", "handoff", "new_lineage", "reissue", "client", "fork"}),
    "unlearn": frozenset(
        {"source", "forget", "retain", "cover", "refusals", "unanswerable", "method", "seed"}
        | {
            "round",
            "out",
            "copy",
            "finish",
            "processes",
            "list_methods",
            "log_dir",
            "resume",
            "work",
        }
    ),
    "aggregate": frozenset({"updates", "out", "fork"}),
    "eval": frozenset(
        {"forget", "retain", "holdout", "utility", "knowledge", "few_shot", "verbatim"}
        | {"handoff", "copy", "record", "retain_record", "before", "format", "texts"}
        | {"list_metrics", "output_format", "all", "fail_if"}
    ),
    "audit": frozenset({"handoffs", "base", "update", "fail_if"}),
}
_INSTEAD: Mapping[str, str] = {
    "seed": "give it as seeds: [1, 2, 3]",
    "round": "give the number of rounds as rounds: 2",
    "method": "make it an axis of the grid: method: [NPO, GradDiff]",
    "model": "give it as model: at the top of the plan",
    "base": "give it as base: at the top of the plan",
    "retain_record": "give the retrained model as retain_model: at the top of the plan",
    **dict.fromkeys(
        ("forget", "retain", "cover", "refusals", "unanswerable", "holdout", "utility", "knowledge")
        + ("few_shot", "verbatim"),
        "give it in data:",
    ),
}


@dataclass(frozen=True, slots=True)
class Commands:
    """What the commands of the steps understand; the command line provides it."""

    options: Mapping[Section, Mapping[str, Declared]]
    """All options by section and by their name in a config file."""
    parse: Callable[[Sequence[str]], Mapping[str, Any]]
    """Read a command line as the command itself does, without running it: the values in effect.

    It raises `UsageError`."""

    def names(self, section: Section) -> list[str]:
        """The options of a section that a plan may set."""
        fixed = _EVERYWHERE | _SET_BY_PLAN[section]
        return sorted(name for name in self.options[section] if name not in fixed)

    def instead(self, section: Section, name: str) -> str | None:
        """What to write instead of an option that the plan sets itself; None for any other."""
        if name not in _EVERYWHERE | _SET_BY_PLAN[section]:
            return None
        return _INSTEAD.get(name, "leave it out")

    def sections_with(self, name: str) -> list[Section]:
        """The sections of which an axis of this name may be an option."""
        return [section for section in AXES_OF if name in self.names(section)]
