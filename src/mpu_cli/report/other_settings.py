"""What other settings would give: leak against error, with the reader's own setting beside them."""

from __future__ import annotations

from collections.abc import Sequence

from mpu_cli.report.measured import DrawRange, Frontier, Measured, frontiers, stated
from mpu_cli.report.numbers import short
from mpu_cli.report.page import Block, Figure, Paragraph, Section
from mpu_cli.report.plot import Dot, Mark, Plot, PlotAxis, Series
from mpu_cli.report.table import PageTable
from mpu_cli.server.lineage.exposure import Prior

_HEADINGS = {
    "one_copy": "left to one copy",
    "all_copies": "left to all copies",
    "error": "error of the update",
    "forget": "forget",
    "retain": "retain",
}


def other_settings(prior: Prior, marks: Sequence[Mark]) -> Section | None:
    """The section of an audit's page; None where the documentation is not installed.

    Args:
        prior: what a holder of this lineage does not know before the first copy.
        marks: where the handoffs that were audited lie.
    """
    found = frontiers()
    if not found:
        return None
    names = list(dict.fromkeys(one.setting for frontier in found for one in frontier.settings))
    blocks: list[Block] = [
        Paragraph(
            "An audit measures what leaks, not what the noise costs: that shows only when the"
            " client has unlearned. The points are settings that benchmarks/frontier.py measured on"
            " other models, once for each draw of the noise; on your model the same setting leaves"
            " about the same share unknown (next table) and may cost more or less. The lines are"
            " your handoffs, as measured above."
        ),
        _stated(names, prior),
        *(_figure(frontier, names, marks, place) for place, frontier in enumerate(found, 1)),
    ]
    return Section("What other settings would give", blocks)


def _stated(names: Sequence[str], prior: Prior) -> PageTable:
    rows, values = [], []
    for number, name in enumerate(names, start=1):
        known = stated(name, prior)
        if known is not None:
            rows.append((_numbered(number, name), *map(short, (known.one_copy, known.all_copies))))
            values.append((name, known.one_copy, known.all_copies))
    return PageTable(
        name="stated",
        caption="What perturb would state of this model: the share that stays unknown, at most, if"
        " this were the lineage's only handoff.",
        columns=("setting", "to a holder of one copy", "to a holder of all copies"),
        rows=tuple(rows),
        names=("setting", "one_copy", "all_copies"),
        values=tuple(values),
    )


def _figure(frontier: Frontier, names: Sequence[str], marks: Sequence[Mark], place: int) -> Figure:
    numbers = [names.index(one.setting) + 1 for one in frontier.settings]
    table = PageTable(
        name=f"measured-{place}",
        caption=f"Measured on {frontier.model}: medians (and ranges) over the draws. The"
        f" rows are in {frontier.file} of the documentation.",
        columns=("setting", "draws", *_HEADINGS.values()),
        rows=tuple(
            (
                _numbered(number, one.setting),
                str(one.draws),
                *(str(one.numbers[key]) for key in _HEADINGS),
            )
            for number, one in zip(numbers, frontier.settings, strict=True)
        ),
        names=("setting", "draws", *_columns()),
        values=tuple(map(_values, frontier.settings)),
    )
    series = tuple(
        Series(
            f"{_HEADINGS[key]}",
            tuple(
                _point(one.numbers[key], one.numbers["error"], str(number))
                for number, one in zip(numbers, frontier.settings, strict=True)
            ),
        )
        for key in ("one_copy", "all_copies")
    )
    plot = Plot(
        title=f"Leak and error, measured on {frontier.model}",
        about="Right is better: more stays unknown. Down is better: a smaller error of the update,"
        " relative to the update without noise. The numbers are those of the settings in the"
        " table.",
        x=PlotAxis("share left unknown by the best attack", is_log=True),
        y=PlotAxis("error of the update", is_log=True),
        series=series,
        marks=tuple(marks),
    )
    return Figure(plot, table)


def _point(left: DrawRange, error: DrawRange, label: str) -> Dot:
    return Dot(left.middle, error.middle, error.low, error.high, left.low, left.high, label=label)


def _numbered(number: int, name: str) -> str:
    return f"{number}  {name}"


def _columns() -> list[str]:
    return [f"{key}{part}" for key in _HEADINGS for part in ("", "_low", "_high")]


def _values(one: Measured) -> tuple[str | float | int | None, ...]:
    spreads = [one.numbers[key] for key in _HEADINGS]
    numbers = [value for it in spreads for value in (it.middle, it.low, it.high)]
    return one.setting, one.draws, *numbers
