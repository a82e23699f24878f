"""The page of `mpu audit update`: what the server could test, before the update leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpu_cli.report.gates import Outcome, gates_section, verdict
from mpu_cli.report.numbers import interval
from mpu_cli.report.page import Block, Facts, Figure, Page, Paragraph, Section
from mpu_cli.report.plot import Dot, Mark, Plot, PlotAxis, Series
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.audit.update.finding import Finding

_READ = (
    "AUC is the chance that a row that was forgotten looks more forgotten than one that was not: .5"
    " tells the server nothing, 1 tells it everything. The control compares rows that were not"
    " forgotten with each other, and must be near .5. The page holds no row."
)


def update_audit_page(
    findings: Sequence[Finding], rows: Mapping[str, int], outcome: Outcome
) -> Page:
    """The page of an audit of an update.

    Args:
        findings: in the order of the audit.
        rows: rows by set.
        outcome: the numbers and the conditions.
    """
    areas = [item for item in findings if item.interval is not None]
    no_text = "The update holds no text of the rows"
    passed = f"{no_text}, and no condition failed." if outcome.gates else f"{no_text}."
    counts = {f"{name} rows": str(count) for name, count in rows.items() if count}
    return Page(
        "Audit of an update",
        "What the server can learn from this update",
        [*verdict(outcome, passed), Paragraph(_READ)],
        [
            Section("What the server can test", [Facts(counts), *_areas(areas)]),
            Section("Everything that was looked for", [_all(findings)]),
            gates_section(outcome),
        ],
    )


def _areas(areas: Sequence[Finding]) -> list[Block]:
    if not areas:
        return [Paragraph("No set was large enough for a test.")]
    table = PageTable(
        name="tests",
        caption="Tests of single rows, with 95 % intervals.",
        columns=("test", "measured", "95 %", "control"),
        rows=tuple(
            (item.what, item.measured, interval(*_bounds(item)), item.control or "–")
            for item in areas
        ),
        names=("test", "auc", "low", "high", "control"),
        values=tuple((item.what, _area(item), *_bounds(item), item.control) for item in areas),
    )
    points = tuple(
        Dot(area, line, x_low=_bounds(item)[0], x_high=_bounds(item)[1])
        for line, item in enumerate(areas)
        if (area := _area(item)) is not None
    )
    plot = Plot(
        title="AUC of the server's tests",
        about="A point is the measured AUC, its line the 95 % interval; at .5 the server guesses.",
        x=PlotAxis("AUC"),
        y=PlotAxis("", names=tuple(item.what for item in areas)),
        series=(Series("", points),),
        marks=(Mark(0.5, "guessing"),),
    )
    return [Figure(plot, table)]


def _all(findings: Sequence[Finding]) -> PageTable:
    return PageTable(
        name="findings",
        caption="In the order of the audit.",
        columns=("what", "measured", "meaning"),
        rows=tuple((item.what, _without_text(item), item.meaning) for item in findings),
    )


def _without_text(item: Finding) -> str:
    """What was measured; of strings of the data that were found, where, and not which."""
    found = item.numbers.get("found")
    if not isinstance(found, Sequence) or not found:
        return item.measured
    _, form, file, _ = found[0]
    return (
        f"{len(found)} of {item.numbers['strings']} strings found in {item.numbers['bytes']} bytes,"
        f" the first ({form}) in {file}; mpu audit update prints it"
    )


def _area(item: Finding) -> float | None:
    measured = item.numbers.get("auc")
    return measured["value"] if isinstance(measured, Mapping) else None


def _bounds(item: Finding) -> tuple[float, float]:
    return item.interval or (0.0, 1.0)
