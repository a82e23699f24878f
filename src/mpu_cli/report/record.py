"""The page of one evaluation record: what a data owner files about a model and its rows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.key_numbers import direction, key_numbers
from mpu_cli.evaluation.metrics import all_metrics
from mpu_cli.evaluation.questions import FORGET, RETAIN
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.evaluation.summarise import MODEL, summarise
from mpu_cli.report.evidence import circumstances, model_facts, rows_table
from mpu_cli.report.numbers import interval, number
from mpu_cli.report.page import Block, Facts, Figure, Page, Paragraph, Section
from mpu_cli.report.plot import Dot, Plot, PlotAxis, Series
from mpu_cli.report.table import PageTable

NO_TEXTS = (
    "The page holds numbers and digests, and no row. Whoever has the rows can compute their"
    " digests with mpu eval, and whoever has the model can compute its digest with mpu inspect."
)
_TOLERANCE = 1e-6
_MOST_RESAMPLES = 100_000
_DEFAULTS = CompareSettings()
BETTER = {"lower": "lower", "higher": "higher", "0": "near 0", "0.5": "near 0.5", "": "–"}


@dataclass(frozen=True, slots=True)
class Value:
    """One number of a record."""

    owner: str
    role: str
    metric: str
    value: float
    low: float | None
    high: float | None
    is_computed: bool = True
    """From the record's rows; or else as the summary has it."""

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.owner} {self.metric}"

    @property
    def better(self) -> str:
        """Which direction is better where the forget set was forgotten and the rest kept."""
        return direction(self.owner, self.role, self.metric)


def values_of(record: Record, place: object) -> list[Value]:
    """The numbers of a record, checked against its rows, with intervals computed from its rows.

    Numbers that need another record are as the summary has them (`is_computed`).

    Raises:
        BadDataError: the summary is malformed, or does not follow from the rows.
    """
    again = summarise(record, None, (), *_resampling(record))
    if not record.values:  # another tool's record
        record = again
    values = []
    for owner, metrics in record.values.items():
        role = record.sets[owner].role if owner in record.sets else MODEL
        if (role == MODEL and owner != MODEL) or not isinstance(metrics, Mapping):
            raise _changed(place, f"has values of {str(owner)[:40]}, which is no set of it")
        for metric, content in metrics.items():
            parts = content if isinstance(content, Mapping) else {}
            value = _number(parts.get("value"))
            if value is None:
                raise _changed(place, f"the value of {owner} {str(metric)[:60]} is no number")
            computed = again.values.get(owner, {}).get(metric)
            if computed is not None:
                _check(f"{owner} {metric}", value, computed["value"], place)
            source = parts if computed is None else computed
            low, high = (_number(source.get(name)) for name in ("low", "high"))
            values.append(
                Value(owner, role, str(metric), value, low, high, is_computed=computed is not None)
            )
    return values


def _resampling(record: Record) -> tuple[int, int]:
    """The seed and the number of weightings that the record states, or the defaults."""
    seed, resamples = (record.settings.get(name) for name in ("seed", "resamples"))
    if type(seed) is int and type(resamples) is int and seed >= 0 < resamples <= _MOST_RESAMPLES:
        return seed, resamples
    return _DEFAULTS.seed, _DEFAULTS.resamples


def record_page(record: Record, place: object, written: PageTable | None = None) -> Page:
    """The page of one record.

    Args:
        record: what was read.
        place: its path, for errors.
        written: what the model wrote, if the reader asked for it.

    Raises:
        BadDataError: see `values_of`.
    """
    values = values_of(record, place)
    facts = model_facts(record)
    blocks: list[Block] = [_figure(values)] if values else []
    blocks += [*_taken_over(values), _left_out(record)]
    return Page(
        "Evaluation record",
        facts["model"],
        [*_sentences(values), Paragraph(NO_TEXTS if written is None else _TEXTS)],
        [
            Section("The model", [Facts(facts)]),
            Section("The rows", [rows_table(record)]),
            Section("The numbers", blocks),
            *([Section("What the model wrote", [written])] if written else []),
            Section("How it was measured", [Facts(circumstances(record))]),
        ],
    )


_TEXTS = "The page holds what the model wrote about the rows, as was asked with --texts."


def written_table(path: Path) -> PageTable:
    """What the model wrote, by set and row, from the record's items; its lines were checked before.

    Raises:
        BadDataError: the record holds no texts.
    """
    import json

    from mpu_cli.evaluation.records.record import ITEMS

    file = (path.parent if path.is_file() else path) / ITEMS
    # Of another tool's record the texts are not read.
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    items = [json.loads(line) for line in text.removesuffix("\n").split("\n") if line]
    rows = tuple(
        (f"{item['set']} {item['row']}", item["written"])
        for item in items
        if isinstance(item.get("written"), str)
    )
    if not rows:
        raise BadDataError(
            f"{path}: the record holds no texts, which --texts would show",
            "leave --texts out, or evaluate again with mpu eval --record DIR --texts",
        )
    return PageTable(name="texts", caption="By set and row.", columns=("row", "text"), rows=rows)


def _sentences(values: list[Value]) -> list[Paragraph]:
    parts = []
    for role, text in ((FORGET, "lower is better"), (RETAIN, "higher is better")):
        for value in values:
            if value.role == role and value.metric == "answer_probability":
                parts.append(
                    f"The model gives the answers of the {value.owner} rows a probability of"
                    f" {number(value.value)} on average (95 %:"
                    f" {interval(value.low, value.high)}; {text})."
                )
    return [Paragraph(" ".join(parts))] if parts else []


def _figure(values: list[Value]) -> Figure | PageTable:
    table = PageTable(
        name="numbers",
        caption="All numbers, with 95 % intervals over the choice of rows. Better is what a model"
        " would have that forgot the forget set and kept the rest.",
        columns=("number", "better", "value", "95 %"),
        rows=tuple(
            (
                value.name,
                BETTER.get(value.better, value.better),
                number(value.value),
                interval(value.low, value.high),
            )
            for value in values
        ),
        names=("set", "metric", "better", "value", "low", "high"),
        values=tuple(
            (value.owner, value.metric, value.better, value.value, value.low, value.high)
            for value in values
        ),
    )
    keys = key_numbers([(value.owner, value.role, value.metric) for value in values])
    drawn = [
        value
        for value in values
        if (value.owner, value.role, value.metric) in keys and 0 <= value.value <= 1
    ]
    if not drawn:
        return table
    points = tuple(
        Dot(value.value, line, x_low=value.low, x_high=value.high)
        for line, value in enumerate(drawn)
    )
    plot = Plot(
        title="The key numbers",
        about="A point is a mean over rows, its line the 95 % interval.",
        x=PlotAxis("value"),
        y=PlotAxis("", names=tuple(value.name for value in drawn)),
        series=(Series("", points),),
    )
    return Figure(plot, table)


def _taken_over(values: list[Value]) -> list[Block]:
    names = [value.name for value in values if not value.is_computed]
    text = "Not computed again from the rows, because another record is needed; as the summary has"
    return [Paragraph(f"{text} it: {', '.join(names)}.", "note")] if names else []


def _left_out(record: Record) -> PageTable:
    known = all_metrics()
    rows = tuple(
        (f"{owner or 'model'} {metric}", reason)
        for (owner, metric), reason in record.left_out.items()
        if getattr(known.get(metric.partition("@")[0]), "shown", True)
    )
    return PageTable(
        name="left-out",
        caption="What was not measured." if rows else "Nothing was left out.",
        columns=("number", "reason"),
        rows=rows,
    )


def _check(name: str, value: float, again: float, place: object) -> None:
    if math.isnan(value) and math.isnan(again):
        return
    if not abs(again - value) <= _TOLERANCE * max(1, abs(again)):
        raise _changed(place, f"{name} is {value:g} in the summary, and {again:g} by the rows")


def _changed(place: object, what: str) -> BadDataError:
    return BadDataError(f"{place}: {what}", "the record was changed: evaluate again")


def _number(value: object) -> float | None:
    try:
        return float(value) if type(value) in (int, float) else None  # type: ignore[arg-type]
    except OverflowError:  # an integer that no float can hold
        return None
