"""Read a record from disk: mpu's own, or open-unlearning's.

Whatever is not a whole record is refused with the name of the file and the line.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.checkpoint.json_text import BadJsonError, parse_json
from mpu_cli.checkpoint.read_file import RECORD_BYTES, read_file
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.records.open_unlearning import read_open_unlearning
from mpu_cli.evaluation.records.record import FORMAT, ITEMS, SUMMARY, Record, SetInfo
from mpu_cli.evaluation.statistics import Array

_HINT = "give a directory that mpu eval --record wrote, or open-unlearning's …_EVAL.json"


def read_record(path: Path) -> Record:
    """Read a record that `mpu eval --record` wrote, or open-unlearning's `…_EVAL.json`.

    Raises:
        BadDataError: it is not a record, is broken, or its two files do not belong together.
    """
    if path.is_file() and path.suffix == ".json" and path.name != SUMMARY:
        return read_open_unlearning(path)
    directory = path.parent if path.name == SUMMARY else path
    foreign = sorted(directory.glob("*_EVAL.json"))
    if len(foreign) == 1 and not (directory / SUMMARY).exists():
        return read_open_unlearning(foreign[0])
    place = directory / SUMMARY
    summary = read_summary(place)
    with _complete(place):
        sets = {str(name): _set_info(info) for name, info in summary["sets"].items()}
        left_out = {
            ("" if name == "model" else name, metric): str(reason)
            for name, reasons in summary["left_out"].items()
            for metric, reason in reasons.items()
        }
        model, settings, values = (dict(summary[key]) for key in ("model", "settings", "values"))
        made = dict(summary.get("made", {}))
    columns = _columns(directory / ITEMS, sets)
    return Record(model, settings, sets, columns, left_out, values, made=made)


def read_summary(place: Path) -> dict[str, Any]:
    """The content of a summary.json of this format, whose sets have rows.

    Raises:
        BadDataError: it is not one.
    """
    try:
        summary = parse_json(read_file(place, RECORD_BYTES, BadDataError, _HINT))
    except BadJsonError as error:
        raise BadDataError(f"{place}: {error}", _HINT) from None
    if not isinstance(summary, dict) or summary.get("kind") != "evaluation":
        raise BadDataError(f"{place}: not a record of an evaluation", _HINT)
    if summary.get("format") != FORMAT:
        raise BadDataError(
            f"{place}: format {summary.get('format')!r}, this mpu reads format {FORMAT}",
            "use the mpu that wrote it",
        )
    with _complete(place):
        for info in summary["sets"].values():
            _set_info(info)
    return summary


@contextmanager
def _complete(place: Path) -> Iterator[None]:
    """Raise BadDataError for a field that is missing or is something else."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadDataError(
            f"{place}: the record is incomplete ({type(error).__name__}: {error})", _HINT
        ) from None


def _set_info(info: Mapping[str, Any]) -> SetInfo:
    digest, tokens = (
        None if value is None else str(value) for value in (info["digest"], info.get("tokens"))
    )
    rows = int(info["rows"])
    if rows < 1:
        raise ValueError("a set without rows")
    return SetInfo(str(info["role"]), rows, digest, bool(info["multiple_choice"]), tokens)


def _columns(path: Path, sets: Mapping[str, SetInfo]) -> dict[tuple[str, str], Array]:
    columns: dict[tuple[str, str], Array] = {}
    seen: set[tuple[str, int]] = set()
    # Not splitlines(): what a model wrote may hold a U+2028, which JSON does not escape.
    lines = _text(path).removesuffix("\n").split("\n")
    expected = sum(info.rows for info in sets.values())
    if len(lines) < expected:
        raise BadDataError(
            f"{path}: {expected - len(lines)} rows are missing",
            "the file was cut short: evaluate again",
        )
    for number, text in enumerate(lines, start=1):
        place = f"{path}:{number}"
        line = _json(text, place)
        name, row = "", -1
        if isinstance(line, dict):
            name, row = str(line.pop("set", "")), line.pop("row", None)
        if (
            name not in sets
            or type(row) is not int
            or not 0 <= row < sets[name].rows
            or (name, row) in seen
        ):
            raise BadDataError(
                f"{place}: not a row of this record's sets, or a row that occurs twice", _HINT
            )
        seen.add((name, row))
        for metric, value in line.items():
            if isinstance(value, str):
                continue
            if value is not None and not _is_number(value):
                raise BadDataError(
                    f"{place}: {metric} is {str(value)[:40]}, expected a number or null", _HINT
                )
            column = columns.setdefault((name, metric), np.full(sets[name].rows, np.nan))
            column[row] = np.nan if value is None else value
    return columns


def _text(path: Path) -> str:
    try:
        return read_file(path, RECORD_BYTES, BadDataError, _HINT).decode("utf-8")
    except UnicodeDecodeError:
        raise BadDataError(f"{path}: cannot be read (not UTF-8)", _HINT) from None


def _json(text: str, place: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{place}: not JSON ({error})", _HINT) from None


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer that no float can hold
        return False
