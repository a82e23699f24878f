"""Compare records: differences with intervals, and whether they are small enough to be equivalent.

The first record is the one to compare with, for instance that of the noise-free baseline. All
records must have the same rows: a row has the same random weight in all of them, so that what the
models have in common does not blur the difference. The interval covers the choice of rows, not the
choice of training seeds; for that, compare records of several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpu_cli.errors import UsageError
from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.comparable import common_part, notes_on_difference, same_numbers
from mpu_cli.evaluation.key_numbers import direction
from mpu_cli.evaluation.metric import keys_used
from mpu_cli.evaluation.metrics import model_metrics, row_metrics
from mpu_cli.evaluation.records.record import Record, require_same_rows
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.evaluation.statistics import (
    FEWEST,
    UNDECIDED,
    Array,
    Resampled,
    rows_needed,
    verdict,
)
from mpu_cli.evaluation.summarise import MODEL, resample, statistics

_DEFAULTS = CompareSettings()


@dataclass(frozen=True, slots=True)
class Line:
    """One number of two records."""

    owner: str
    """The set, or "model"."""
    role: str
    """The set's role, or "model"."""
    metric: str
    better: str
    """See `key_numbers.direction`."""
    first: float
    other: float
    difference: float
    """other − first."""
    low: float | None
    high: float | None
    margin: float | None
    """A difference within it counts as none; None if nothing says how large it is."""
    verdict: str
    rows: int
    """Rows that have a number in both records; of several sets, the smallest count."""
    rows_needed: int | None
    """With fewer rows the margin cannot be shown, even if no row differs.

    None without a margin or an interval.
    """


@dataclass(frozen=True, slots=True)
class Pair:
    """The first record and another one."""

    first: str
    other: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs, with notes for the user."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What every pair of one comparison has in common."""

    before: Record | None
    retain_record: Record | None
    share: float
    margin: float | None
    seed: int
    resamples: int

    def values_before(self, first: Record) -> dict[tuple[str, str], Any]:
        """The values before unlearning, on the same sets; the model's only if no set is missing."""
        if self.before is None:
            return {}
        same = common_part(self.before, first)
        values = statistics(same.view(self.retain_record), model_metrics())[0]
        complete = set(same.sets) == set(first.sets)
        return {key: value for key, value in values.items() if key[0] != MODEL or complete}

    def allowed(self, value: Any, old: Any | None) -> float | None:
        """The margin of a value; None if it did not change since, rather than a margin of 0."""
        if self.margin is not None or old is None:
            return self.margin
        return self.share * abs(float(value) - float(old)) or None


def compare(
    records: Mapping[str, Record],
    *,
    before: Record | None = None,
    retain_record: Record | None = None,
    share: float = _DEFAULTS.share,
    margin: float | None = _DEFAULTS.margin,
    seed: int = _DEFAULTS.seed,
    resamples: int = _DEFAULTS.resamples,
) -> Comparison:
    """Compare the first of several records with each of the others.

    Args:
        records: two or more, by the name to show.
        before: the record of the model before unlearning, for the margin.
        retain_record: the record of a model that never saw the forget set, for metrics that need
            it.
        share: the margin, as a share of the first record's change since `before`.
        margin: the margin itself, the same for all metrics, in place of a share.
        seed: of the random weights.
        resamples: how many random weightings.

    Raises:
        UsageError: fewer than two records, or a margin outside its range.
        BadDataError: records of other rows.
    """
    if len(records) < 2:
        raise UsageError(
            "compare needs two records or more", "make one with: mpu eval MODEL … --record DIR"
        )
    if not 0 < share < 1 or (margin is not None and not margin > 0):
        raise UsageError(
            "a margin must be above 0, and a share of the change below 1",
            "leave it out for 1 % of the change",
        )
    (first_name, first), *others = records.items()
    notes = []
    if margin is None and before is None:
        notes.append(
            "no margin: give --before RECORD (the margin is then 1 % of the first record's change)"
            " or --margin"
        )
    for name, record in [*others, ("--before", before)]:
        notes += notes_on_difference(first_name, first, name, record) if record else []
    if retain_record is not None:
        require_same_rows("--retain-record", retain_record, first.sets)
    baseline = _Baseline(before, retain_record, share, margin, seed, resamples)
    pairs = []
    for name, other in others:
        lines = _lines(first, other, baseline)
        pairs.append(Pair(first_name, name, lines))
        notes += _notes_on_rows(lines)
    return Comparison(tuple(pairs), tuple(dict.fromkeys(notes)))


def _lines(first: Record, other: Record, baseline: _Baseline) -> tuple[Line, ...]:
    pair = same_numbers(common_part(first, other), common_part(other, first))
    views = [record.view(baseline.retain_record) for record in pair]
    values, others = (statistics(view, model_metrics())[0] for view in views)
    sizes = {name: info.rows for name, info in pair[0].sets.items()}
    draws = resample(views, sizes, model_metrics(), baseline.seed, baseline.resamples)
    old = baseline.values_before(pair[0])
    lines = []
    for key, value in values.items():
        if key not in others:
            continue
        owner, metric = key
        margin = baseline.allowed(value, old.get(key))
        rows = _rows(views, key)
        bounds, word = None, "–"
        if key in draws[0] and key in draws[1]:
            bounds = _difference(draws[0][key], draws[1][key]).bounds()
            word = UNDECIDED if rows < FEWEST else verdict(bounds, margin)
        low, high = bounds.wide if bounds else (None, None)
        role = first.sets[owner].role if owner in first.sets else MODEL
        lines.append(
            Line(
                owner,
                role,
                metric,
                direction(owner, role, metric),
                float(value),
                float(others[key]),
                float(others[key] - value),
                low,
                high,
                margin,
                word,
                rows,
                _rows_needed(key, margin) if bounds and margin else None,
            )
        )
    order = {name: place for place, name in enumerate([*first.sets, MODEL])}
    return tuple(sorted(lines, key=lambda line: order[line.owner]))


def _difference(first: Resampled, other: Resampled) -> Resampled:
    """An unseen row may lie at one limit for one model and at the other limit for the other."""
    return Resampled((other.ends[0] - first.ends[1], other.ends[1] - first.ends[0]))


def _rows_needed(key: tuple[str, str], margin: float) -> int | None:
    if key[0] == MODEL:
        return None
    low, high = row_metrics()[key[1].partition("@")[0]].limits
    return rows_needed(margin, high - low)


def _notes_on_rows(lines: Sequence[Line]) -> list[str]:
    """For each set, a note on the widest margin that its rows cannot show."""
    short: dict[str, Line] = {}
    for line in lines:
        if line.rows_needed and line.rows < line.rows_needed:
            widest = short.setdefault(line.owner, line)
            if line.rows_needed < (widest.rows_needed or 0):
                short[line.owner] = line
    return [
        f"{owner}: {line.rows} rows cannot show a margin of ±{line.margin:.3g} ({line.metric}) or"
        f" less, even if no row differs: {line.rows_needed} rows could"
        for owner, line in short.items()
    ]


def _rows(views: Sequence[Columns], key: tuple[str, str]) -> int:
    """Rows that have a number in both records; for a model metric, in its smallest column."""
    owner, name = key
    if owner != MODEL:
        return _numbers(views[0].values[key])
    metric, _, condition = name.partition("@")
    view = views[0].under(condition) if condition else views[0]
    return min(_numbers(view.values[used]) for used in keys_used(view, model_metrics()[metric]))


def _numbers(column: Array) -> int:
    return int((~np.isnan(column)).sum())


def labels(names: Sequence[str]) -> list[str]:
    """Short distinct names for paths: the last part, or the whole where two would be alike."""
    short = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    return short if len(set(short)) == len(short) else list(names)
