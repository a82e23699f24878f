"""The tables that `mpu run` wrote, read with every mistake named: file, line and column."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.errors import BadDataError

RUNS, ROUNDS, PLAN, PROVENANCE = "runs.csv", "rounds.csv", "plan.yaml", "provenance.json"
BEFORE, NOISE_FREE, NOISY, RETAIN_MODEL = "before", "noise-free", "mpu", "retain-model"
_KINDS = (BEFORE, NOISE_FREE, NOISY, RETAIN_MODEL)
_IDENTITY = ("run", "kind", "method", "seed", "draw")
_COUNTERS = ("rounds", "round")
_FIRST_NUMBER, _LAST = "forget", "model_digest"
_NEEDED = (*_IDENTITY, "kappa", "copies", "forget", "retain", "error")
_MOST_BYTES = 64 << 20
_LARGEST = 1e100
"""Of a number: means and slopes of larger ones are not finite."""
_HINT = "give the directory that mpu run wrote with --out; the same mpu run writes it again"


@dataclass(frozen=True, slots=True)
class RunRow:
    """One row: a run, or one round of it."""

    kind: str
    method: str
    seed: str
    draw: str
    round: int
    """The number of the round, or of rounds."""
    settings: Mapping[str, str]
    """What decides it besides method and seed, as text by column."""
    numbers: Mapping[str, float]
    """What was measured by column, without what was not."""


@dataclass(frozen=True, slots=True)
class RunTable:
    """All rows of one file."""

    settings: tuple[str, ...]
    """Columns of settings, those that never change included."""
    numbers: tuple[str, ...]
    runs: tuple[RunRow, ...]

    @property
    def methods(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(run.method for run in self.runs if run.method))


def read_runs(path: Path) -> RunTable:
    """Read runs.csv or rounds.csv.

    Raises:
        BadDataError: a column is missing or there twice, a row is cut short or has too many cells,
            or a number is none.
    """
    rows = list(_rows(path))
    header = rows[0] if rows else []
    for name in header:
        if header.count(name) > 1:
            raise BadDataError(f"{path}: the column {name!r} occurs twice", _HINT)
    if missing := [name for name in _NEEDED if name not in header]:
        raise BadDataError(f"{path}: no column {', '.join(missing)}", _HINT)
    counter = next((name for name in _COUNTERS if name in header), None)
    if counter is None:
        raise BadDataError(f"{path}: no column {' or '.join(_COUNTERS)}", _HINT)
    first = header.index(_FIRST_NUMBER)
    settings = tuple(name for name in header[:first] if name not in (*_IDENTITY, counter))
    numbers = tuple(name for name in header[first:] if name != _LAST)
    if "kappa" not in settings or "copies" not in settings:
        raise BadDataError(f"{path}: the settings must come before the column forget", _HINT)
    runs = tuple(
        _run(
            f"{path}, line {line}", dict(zip(header, row, strict=True)), settings, numbers, counter
        )
        for line, row in enumerate(rows[1:], start=2)
    )
    if not runs:
        raise BadDataError(f"{path}: has no row", "no run of the plan is finished: run it again")
    return RunTable(settings, numbers, runs)


def read_text(path: Path, limit: int) -> str:
    """The text of a file of a run.

    Raises:
        BadDataError: it is no regular file, larger than `limit` bytes, or not UTF-8.
    """
    try:
        return read_file(path, limit, BadDataError, _HINT).decode()
    except UnicodeDecodeError:
        raise BadDataError(f"{path}: not UTF-8", _HINT) from None


def _rows(path: Path) -> Iterator[list[str]]:
    """The cells of each line, as many in all of them."""
    text = read_text(path, _MOST_BYTES)
    if text and not text.endswith("\n"):
        raise BadDataError(f"{path}: ends within a line: it was cut short", _HINT)
    # Not splitlines(): a name may hold a separator that is no end of a line in CSV.
    reader, width = csv.reader(io.StringIO(text, newline=""), strict=True), 0
    try:
        for row in reader:
            width = width or len(row)
            if len(row) != width:
                raise BadDataError(
                    f"{path}, line {reader.line_num}: {len(row)} cells, expected {width}", _HINT
                )
            yield row
    except csv.Error as error:
        raise BadDataError(f"{path}, line {reader.line_num}: {error}", _HINT) from None


def _run(
    place: str,
    row: Mapping[str, str],
    settings: Sequence[str],
    numbers: Sequence[str],
    counter: str,
) -> RunRow:
    if row["kind"] not in _KINDS:
        raise BadDataError(
            f"{place}: kind is {row['kind'][:40]!r}, expected one of {', '.join(_KINDS)}", _HINT
        )
    found = {name: number for name in numbers if (number := _number(place, name, row)) is not None}
    for name in ("forget", "retain") if row["kind"] == NOISY else ():
        if name not in found:
            raise BadDataError(f"{place}: {name} is missing", _HINT)
    kappa, count = (_number(place, name, row) or 0 for name in ("kappa", counter))
    if kappa < 0:
        raise BadDataError(f"{place}: kappa is {kappa:g}, expected at least 0", _HINT)
    if count < 0 or count != int(count):
        raise BadDataError(
            f"{place}: {counter} is {count:g}, expected a whole number, at least 0", _HINT
        )
    return RunRow(
        row["kind"],
        row["method"],
        row["seed"],
        row["draw"],
        int(count),
        {name: row[name] for name in settings}
        | ({"kappa": f"{kappa:g}"} if row["kappa"].strip() else {}),
        found,
    )


def _number(place: str, name: str, row: Mapping[str, str]) -> float | None:
    text = row[name].strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < _LARGEST:  # NaN is not, either
        raise BadDataError(f"{place}: {name} is {text[:40]!r}, expected a number", _HINT)
    return value
