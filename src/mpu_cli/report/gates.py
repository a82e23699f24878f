"""The conditions of `--fail-if` on an audit's page, and the sentence above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpu_cli.report.numbers import short
from mpu_cli.report.page import Paragraph, Section
from mpu_cli.report.table import PageTable


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an audit concluded."""

    numbers: Mapping[str, float | None]
    """By the names that conditions use; None where nothing was measured."""
    gates: Sequence[str]
    """The conditions, as they were given."""
    failed: Sequence[str]
    """One line for each condition that holds, and one for what the audit itself refused."""
    warnings: Sequence[str] = ()


def verdict(outcome: Outcome, passed: str) -> list[Paragraph]:
    """The verdict, then the warnings.

    Args:
        outcome: of the audit.
        passed: the sentence where nothing failed.
    """
    lines = [Paragraph(f"Failed: {line}.", "bad") for line in outcome.failed]
    return [
        *(lines or [Paragraph(passed, "good" if outcome.gates else "note")]),
        *(Paragraph(f"Note: {line}.", "note") for line in outcome.warnings),
    ]


def gates_section(outcome: Outcome) -> Section:
    """The numbers, and which conditions on them were asked for."""
    asked = (
        [f"Asked with --fail-if: {', '.join(outcome.gates)}."]
        if outcome.gates
        else ["No condition was asked for (--fail-if)."]
    )
    numbers = outcome.numbers.items()
    table = PageTable(
        name="gates",
        caption="The numbers by the names that conditions use.",
        columns=("name", "number"),
        rows=tuple((name, short(value)) for name, value in numbers),
        names=("name", "number"),
        values=tuple(numbers),
    )
    return Section("Gates", [*map(Paragraph, asked), table])
