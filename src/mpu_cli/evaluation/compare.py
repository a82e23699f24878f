"""Two or more records side by side.

Differences with intervals, and whether they are small enough to call the models equivalent.

The first record is the one to compare with (the noise-free baseline, say). All records must be of
the same rows: a row has the same random weight in all of them, so that what rows have in common
does not blur the difference. The interval covers the choice of rows, not the choice of training
seeds: for that, compare records of several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.evaluation.asking import describe
from mpu_cli.evaluation.metric import Array, Columns, keys_used
from mpu_cli.evaluation.metrics import model_metrics, row_metrics
from mpu_cli.evaluation.reading import direction
from mpu_cli.evaluation.record import OTHER_TOKENS, Record, same_rows
from mpu_cli.evaluation.statistics import FEWEST, RESAMPLES, UNDECIDED, Draws, rows_needed, verdict
from mpu_cli.evaluation.summarise import MODEL, draw, statistics

_LIMIT = "max_new_tokens"
_BY_ROUGE = ("rouge_recall", "knowledge_memorization", "verbatim_memorization")


@dataclass(frozen=True, slots=True)
class Line:
    """One number of two records."""

    owner: str
    """The set, or "model"."""
    role: str
    """What the set was given for, or "model"."""
    metric: str
    better: str
    """See `reading.direction`."""
    first: float
    other: float
    difference: float
    """other − first."""
    low: float | None
    high: float | None
    margin: float | None
    """Within which the difference counts as none; None where nothing says how large."""
    verdict: str
    rows: int
    """That have a number in both records; of several sets, the smallest."""
    rows_needed: int | None
    """With fewer, a set's margin cannot be shown, even if no row differs.

    None without a margin or an interval.
    """


@dataclass(frozen=True, slots=True)
class Pair:
    """The first record and another."""

    first: str
    other: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All pairs."""

    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(
    records: Mapping[str, Record],
    *,
    before: Record | None = None,
    retain_record: Record | None = None,
    share: float = 0.01,
    margin: float | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare the first of several records with each other one.

    Args:
        records: two or more, by the name to show.
        before: of the model before unlearning: what the margin is a share of.
        retain_record: of a model that never saw the forget set, for metrics that need it.
        share: the margin, as a share of the first record's change since `before`.
        margin: the margin itself, the same for all metrics, instead.
        seed: of the random weights.
        resamples: how many of them.

    Raises:
        UsageError: fewer than two records, a margin outside its range.
        BadDataError: records of other rows.
    """
    if len(records) < 2:
        raise UsageError("give two records or more", "mpu eval MODEL … --record DIR makes one")
    if not 0 < share < 1 or (margin is not None and not margin > 0):
        raise UsageError(
            "a margin must be above 0 (and a share of the change below 1)",
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
        notes += _comparable(first_name, first, name, record) if record else []
    if retain_record is not None:
        same_rows("--retain-record", retain_record, first.sets)
    pairs = []
    for name, other in others:
        lines = _lines(first, other, before, retain_record, share, margin, seed, resamples)
        pairs.append(Pair(first_name, name, lines))
        notes += _too_few(lines)
    return Comparison(tuple(pairs), tuple(dict.fromkeys(notes)))


def _lines(
    first: Record,
    other: Record,
    before: Record | None,
    retained: Record | None,
    share: float,
    margin: float | None,
    seed: int,
    resamples: int,
) -> tuple[Line, ...]:
    chosen = model_metrics()
    pair = _same_numbers(_common(first, other), _common(other, first))
    views = [one.view(retained) for one in pair]
    values = [statistics(view, chosen)[0] for view in views]
    draws = draw(
        views, {name: info.rows for name, info in pair[0].sets.items()}, chosen, seed, resamples
    )
    old = _old(before, pair[0], retained) if before else {}
    lines = []
    for key, value in values[0].items():
        if key not in values[1]:
            continue
        # What did not change gives no margin, rather than one of nothing.
        allowed = (
            margin
            if margin is not None
            else (share * abs(float(value) - float(old[key])) or None)
            if key in old
            else None
        )
        rows = _rows(views, key)
        bounds, word = None, "–"
        if key in draws[0] and key in draws[1]:
            bounds = _difference(draws[0][key], draws[1][key]).bounds()
            word = UNDECIDED if rows < FEWEST else verdict(bounds, allowed)
        low, high = bounds.wide if bounds else (None, None)
        needed = _rows_needed(key, allowed) if bounds and allowed else None
        numbers = float(value), float(values[1][key]), float(values[1][key] - value)
        role = first.sets[key[0]].role if key[0] in first.sets else MODEL
        better = direction(key[0], role, key[1])
        lines.append(
            Line(key[0], role, key[1], better, *numbers, low, high, allowed, word, rows, needed)
        )
    order = {name: place for place, name in enumerate([*first.sets, MODEL])}
    return tuple(sorted(lines, key=lambda line: order[line.owner]))


def _difference(first: Draws, other: Draws) -> Draws:
    """An unseen row may lie at one end for one model and at the other end for the other one."""
    return Draws((other.ends[0] - first.ends[1], other.ends[1] - first.ends[0]))


def _rows_needed(key: tuple[str, str], margin: float) -> int | None:
    if key[0] == MODEL:
        return None
    low, high = row_metrics()[key[1].partition("@")[0]].limits
    return rows_needed(margin, high - low)


def _too_few(lines: Sequence[Line]) -> list[str]:
    """For each set, the widest margin that its rows cannot show, whatever they say."""
    notes = []
    for owner in dict.fromkeys(line.owner for line in lines):
        short = [
            line
            for line in lines
            if line.owner == owner and line.rows_needed and line.rows < line.rows_needed
        ]
        if short:
            widest = min(short, key=lambda line: line.rows_needed or 0)
            notes.append(
                f"{owner}: {widest.rows} rows cannot show a margin of ±{widest.margin:.3g}"
                f" ({widest.metric}) or less, even if no row differs; it takes {widest.rows_needed}"
            )
    return notes


def _old(before: Record, first: Record, retained: Record | None) -> dict[tuple[str, str], Any]:
    """The values before unlearning, of the same sets.

    The model's own only where no set is missing.
    """
    same = _common(before, first)
    values = statistics(same.view(retained), model_metrics())[0]
    return {
        key: value
        for key, value in values.items()
        if key[0] != MODEL or set(same.sets) == set(first.sets)
    }


def _rows(views: Sequence[Columns], key: tuple[str, str]) -> int:
    """How many have a number in both records.

    For the model's own metrics, in the smallest column that they are made of.
    """
    owner, name = key
    if owner != MODEL:
        return _numbers(views[0].values[key])
    metric, _, condition = name.partition("@")
    view = views[0].under(condition) if condition else views[0]
    return min(_numbers(views[0].values[each]) for each in keys_used(view, model_metrics()[metric]))


def _numbers(column: Array) -> int:
    return int((~np.isnan(column)).sum())


def _same_numbers(first: Record, other: Record) -> tuple[Record, Record]:
    """Both with numbers for the same rows.

    A row that one of them leaves out says nothing of a difference.
    """
    gaps = {
        key: np.isnan(values) | np.isnan(other.columns[key])
        for key, values in first.columns.items()
    }
    reasons = {**other.left_out, **first.left_out}
    made = [
        replace(
            one,
            columns={
                key: np.where(gaps[key], np.nan, values) for key, values in one.columns.items()
            },
            left_out=reasons,
        )
        for one in (first, other)
    ]
    return made[0], made[1]


def _common(record: Record, other: Record) -> Record:
    """The record without sets and columns that the other lacks.

    A set is multiple choice if it is in either.
    """
    columns = {key: values for key, values in record.columns.items() if key in other.columns}
    sets = {
        name: replace(
            info, multiple_choice=info.multiple_choice or other.sets[name].multiple_choice
        )
        for name, info in record.sets.items()
        if name in other.sets
    }
    return replace(record, columns=columns, sets=sets)


def _comparable(first_name: str, first: Record, name: str, record: Record) -> list[str]:
    notes = []
    for set_name, mine in first.sets.items():
        theirs = record.sets.get(set_name)
        if theirs is None:
            notes.append(f"{name} has no {set_name} set: left out")
        elif not theirs.is_of_the_same_rows(mine):
            raise BadDataError(
                f"{name}: its {set_name} set is not that of {first_name} ({theirs.rows} rows,"
                f" digest {(theirs.digest or '–')[:12]}; {mine.rows} rows,"
                f" {(mine.digest or '–')[:12]})",
                "evaluate both models on the same rows",
            )
        elif not theirs.is_of_the_same_tokens(mine):
            hint = _other_tokens(first, record, set_name)
            raise BadDataError(
                f"{name}: its {set_name} set has the rows of {first_name} as other tokens", hint
            )
    for setting in ("max_length", _LIMIT, *_settings_of_checks(first, record)):
        here, there = first.settings.get(setting), record.settings.get(setting)
        if here != there and setting in record.settings and setting in first.settings:
            notes.append(f"{name} was evaluated with {setting} {there}, {first_name} with {here}")
    return notes + _asked_otherwise(first_name, first, name, record)


def _asked_otherwise(first_name: str, first: Record, name: str, record: Record) -> list[str]:
    """What was written after other prompts, or scored by other words.

    Records by other tools do not tell.
    """
    if not first.settings or not record.settings:
        return []
    notes = []
    scored = any(
        metric.startswith(_BY_ROUGE) for _, metric in first.columns.keys() & record.columns.keys()
    )
    if scored and first.settings.get("rouge") != record.settings.get("rouge"):
        notes.append(
            f"{name} and {first_name} were scored with different words for ROUGE: evaluate the"
            " older one again"
        )
    for set_name in (each for each in first.sets if each in record.sets):
        here, there = (_asked(one, set_name) for one in (first, record))
        if any(
            "asked" not in one.settings for one in (first, record)
        ):  # an earlier mpu told only the limit
            here, there = ({way: one[way] for way in one if way == _LIMIT} for one in (here, there))
        if here and there and here != there:
            told = [describe(one, other) for one, other in ((there, here), (here, there))]
            notes.append(
                f"{name} was asked about {set_name} with {told[0]}, {first_name} with {told[1]}"
            )
    return notes


def _asked(record: Record, set_name: str) -> dict[str, Any]:
    """How a set was asked; an earlier mpu had one limit for all sets."""
    if "asked" in record.settings:
        return dict((record.settings["asked"] or {}).get(set_name) or {})
    return {_LIMIT: record.settings[_LIMIT]} if record.settings.get(_LIMIT) is not None else {}


def _other_tokens(first: Record, record: Record, set_name: str) -> str:
    """What to do about rows that are other tokens.

    Examples before the questions are the likeliest cause where they differ.
    """
    digests = {_asked(one, set_name).get("examples_digest") for one in (first, record)}
    return (
        OTHER_TOKENS if len(digests) == 1 else "run mpu eval on both with the same --few-shot file"
    )


def _settings_of_checks(*records: Record) -> list[str]:
    """Those on which the numbers of the checks depend that all of these records have."""
    run = set.intersection(*(set(record.settings.get("robustness") or ()) for record in records))
    named = {
        "leak": ("samples", "temperature", "seed"),
        "relearning": (
            "relearn_rows",
            "relearn_steps",
            "relearn_rates",
            "relearn_rate",
            "seed",
        ),  # relearn_rate: of an earlier mpu
    }
    return list(
        dict.fromkeys(
            setting for check, settings in named.items() if check in run for setting in settings
        )
    )


def labels(names: Sequence[str]) -> list[str]:
    """Short distinct names for paths: the last part, or all of them where two would be alike."""
    short = [name.rstrip("/").rsplit("/", 1)[-1] for name in names]
    return short if len(set(short)) == len(short) else list(names)
