"""The page of a comparison: what changed between records of the same rows, with a verdict each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields

from mpu_cli.evaluation.compare import Comparison, Line, Pair
from mpu_cli.evaluation.key_numbers import key_numbers
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.statistics import DIFFERENT, EQUIVALENT, NO_MARGIN, UNDECIDED
from mpu_cli.report.evidence import circumstances, model_facts, rows_table
from mpu_cli.report.numbers import counted, interval, number
from mpu_cli.report.page import Block, Facts, Figure, Page, Paragraph, Section
from mpu_cli.report.plot import Dot, Mark, Plot, PlotAxis, Series
from mpu_cli.report.record import BETTER, NO_TEXTS
from mpu_cli.report.table import PageTable

_VERDICTS = (
    f"Verdicts: {EQUIVALENT} means that two one-sided tests at 5 % put the difference within the"
    f" margin; {DIFFERENT} that the 95 % interval excludes zero; {UNDECIDED} that neither could be"
    f" shown; {NO_MARGIN} that no margin was given. Intervals cover the choice of rows, not other"
    " training seeds."
)


def comparison_page(comparison: Comparison, records: Mapping[str, Record]) -> Page:
    """The page of a comparison of these records, which are called as in its pairs."""
    first = next(iter(records))
    sections = [
        Section(f"{pair.other} against {pair.first}", _pair(pair, number))
        for number, pair in enumerate(comparison.pairs, start=1)
    ]
    notes = [Paragraph(note, "note") for note in comparison.notes]
    return Page(
        "Comparison of evaluation records",
        " and ".join(records) if len(records) < 4 else f"{first} and {len(records) - 1} others",
        [*map(Paragraph, map(headline, comparison.pairs)), *notes, Paragraph(NO_TEXTS)],
        [
            *sections,
            Section("How to read the verdicts", [Paragraph(_VERDICTS)]),
            Section("The records", list(_records(records))),
        ],
    )


def headline(pair: Pair) -> str:
    """How answers of forget and retain rows changed, and how many numbers have each verdict."""
    changes = [
        f"answer probability of the {line.owner} rows {number(line.first)} in {pair.first},"
        f" {number(line.other)} in {pair.other} ({line.verdict})"
        for line in pair.lines
        if line.metric == "answer_probability"
    ]
    counts: dict[str, int] = {}
    for line in pair.lines:
        counts[line.verdict] = counts.get(line.verdict, 0) + 1
    words = [f"{count} {_verdict(word)}" for word, count in counts.items()]
    text = f"{counted(len(pair.lines), 'number')}: {', '.join(words) or 'none in common'}."
    # Not capitalize(): the names of records keep their letters.
    return f"A{'; '.join(changes)[1:]}. {text}" if changes else text


def _verdict(word: str) -> str:
    return {"–": "without an interval", NO_MARGIN: "without a margin"}.get(word, word)


def _pair(pair: Pair, place: int) -> list[Block]:
    table = PageTable(
        name=f"comparison-{place}",
        caption=f"Differences of {pair.other} from {pair.first}, with 95 % intervals and margins.",
        columns=(
            "number",
            "better",
            pair.first,
            pair.other,
            "difference",
            "95 %",
            "margin",
            "verdict",
        ),
        rows=tuple(map(_cells, pair.lines)),
        names=tuple(item.name for item in fields(Line)),
        values=tuple(
            tuple(getattr(line, item.name) for item in fields(Line)) for line in pair.lines
        ),
    )
    keys = key_numbers([(line.owner, line.role, line.metric) for line in pair.lines])
    drawn = [line for line in pair.lines if (line.owner, line.role, line.metric) in keys]
    if not drawn:
        return [table]
    points = tuple(
        Dot(line.difference, place, x_low=line.low, x_high=line.high)
        for place, line in enumerate(drawn)
    )
    plot = Plot(
        title=f"{pair.other} minus {pair.first}",
        about="A point is a difference of two means over the same rows, its line the 95 % interval;"
        " left of zero the number fell, right of it it rose.",
        x=PlotAxis("difference"),
        y=PlotAxis("", names=tuple(f"{line.owner} {line.metric}" for line in drawn)),
        series=(Series("", points),),
        marks=(Mark(0, "no difference"),),
    )
    return [Figure(plot, table)]


def _cells(line: Line) -> tuple[str, ...]:
    return (
        f"{line.owner} {line.metric}",
        BETTER.get(line.better, line.better),
        number(line.first),
        number(line.other),
        number(line.difference, signed=True),
        interval(line.low, line.high),
        "–" if line.margin is None else f"±{number(line.margin)}",
        line.verdict,
    )


def _records(records: Mapping[str, Record]) -> Iterator[Block]:
    for place, (name, record) in enumerate(records.items(), start=1):
        yield Facts({"record": name, **model_facts(record), **circumstances(record)})
        yield rows_table(record, f"rows-{place}")
