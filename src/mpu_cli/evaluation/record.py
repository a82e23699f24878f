"""An evaluation on disk: `summary.json`, and `items.jsonl` with a line for every row of every set.

A record holds numbers, not texts, unless they are asked for: it may be shown to someone who may not
see the rows. Each set has a digest of its rows, so that records of other rows are never compared.
Everything in the summary can be computed again from the items, and `mpu compare` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.metric import Array, Columns
from mpu_cli.evaluation.questions import FORGET, HOLDOUT, QuestionSet

FORMAT = 1
SUMMARY, ITEMS = "summary.json", "items.jsonl"
_HINT = "expected a directory that mpu eval --record wrote, or open-unlearning's …_EVAL.json"


OTHER_TOKENS = (
    "run mpu eval on both with one tokenizer and chat template, and the same --system-prompt,"
    " --template-var and --template-date"
)


@dataclass(frozen=True, slots=True)
class SetInfo:
    """What a record says of a set of rows."""

    role: str
    rows: int
    digest: str | None
    """None where another tool wrote the record."""
    multiple_choice: bool = False
    tokens: str | None = None
    """Digest of the rows as tokens, prompts included.

    None in a record of an earlier mpu or of another tool.
    """

    @classmethod
    def of(cls, each: QuestionSet, tokens: str | None = None) -> SetInfo:
        """Of a set that is in memory."""
        return cls(each.role, len(each.questions), each.digest, each.multiple_choice, tokens)

    def is_of_the_same_rows(self, other: SetInfo) -> bool:
        """As far as can be told: a record by another tool has no digest."""
        return self.rows == other.rows and (
            self.digest is None or other.digest is None or self.digest == other.digest
        )

    def is_of_the_same_tokens(self, other: SetInfo) -> bool:
        """Likewise; False where the same rows stood in other prompts, or were split otherwise."""
        return self.tokens is None or other.tokens is None or self.tokens == other.tokens


@dataclass(frozen=True, slots=True)
class Record:
    """Everything that an evaluation found."""

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    sets: Mapping[str, SetInfo]
    columns: Mapping[tuple[str, str], Array]
    """Rows' numbers by (set, metric or metric@condition), each (n,).

    NaN = this row was not measured.
    """
    left_out: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Reasons by (set, metric); the set is "" for the model's own metrics."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The summary's means and intervals."""
    written: Mapping[tuple[str, int], str] = field(default_factory=dict)
    made: Mapping[str, Any] = field(default_factory=dict)
    """Date, versions, device, and the models beside (see `provenance.py`).

    Empty in a record of an earlier mpu or another tool.
    """

    def view(self, retain_record: Record | None = None) -> Columns:
        """What model metrics look at."""
        return Columns(
            self.columns,
            {name: info.role for name, info in self.sets.items()},
            frozenset(name for name, info in self.sets.items() if info.multiple_choice),
            replace(retain_record.view(), whose="the retain record") if retain_record else None,
            self.left_out,
        )

    def summary(self) -> dict[str, Any]:
        """The content of summary.json."""
        left_out: dict[str, dict[str, str]] = {}
        for (name, metric), reason in self.left_out.items():
            left_out.setdefault(name or "model", {})[metric] = reason
        sets = {
            name: {
                "role": info.role,
                "rows": info.rows,
                "digest": info.digest,
                "multiple_choice": info.multiple_choice,
                "tokens": info.tokens,
            }
            for name, info in self.sets.items()
        }
        return {
            "kind": "evaluation",
            "format": FORMAT,
            "model": dict(self.model),
            "made": dict(self.made),
            "settings": dict(self.settings),
            "sets": sets,
            "values": dict(self.values),
            "left_out": left_out,
        }

    def items(self) -> list[dict[str, Any]]:
        """The lines of items.jsonl."""
        lines = []
        for name, info in self.sets.items():
            mine = {
                metric: values for (owner, metric), values in self.columns.items() if owner == name
            }
            for row in range(info.rows):
                numbers = {metric: plain_number(values[row]) for metric, values in mine.items()}
                text = {"written": self.written[name, row]} if (name, row) in self.written else {}
                lines.append({"set": name, "row": row, **numbers, **text})
        return lines


def same_rows(what: str, record: Record, sets: Mapping[str, SetInfo]) -> None:
    """Refuse a record of other forget or holdout rows.

    Raises:
        BadDataError: the digests of rows or tokens differ, or (where another tool's record has
            none) the numbers of rows.
    """
    for name, mine in sets.items():
        theirs = record.sets.get(name)
        if theirs is None or mine.role not in (FORGET, HOLDOUT):
            continue
        if theirs.is_of_the_same_rows(mine):
            if theirs.is_of_the_same_tokens(mine):
                continue
            raise BadDataError(
                f"{what}: its {name} set has the same rows as other tokens", OTHER_TOKENS
            )
        if theirs.digest is not None and mine.digest is not None and theirs.digest != mine.digest:
            found = f"is another one (digest {theirs.digest[:12]}, here {mine.digest[:12]})"
        else:
            found = f"has {theirs.rows} rows, here are {mine.rows}"
        raise BadDataError(
            f"{what}: its {name} set {found}", "evaluate both models on the same rows"
        )


def read_record(path: Path) -> Record:
    """Read a record that `mpu eval --record` wrote, or open-unlearning's `…_EVAL.json`.

    Raises:
        BadDataError: it is none, is broken, or its two files do not belong together.
    """
    from mpu_cli.evaluation.open_unlearning import read_open_unlearning

    if path.is_file() and path.suffix == ".json" and path.name != SUMMARY:
        return read_open_unlearning(path)
    directory = path.parent if path.name == SUMMARY else path
    theirs = sorted(directory.glob("*_EVAL.json"))
    if len(theirs) == 1 and not (directory / SUMMARY).exists():
        return read_open_unlearning(theirs[0])
    summary = _json(_read(directory / SUMMARY), directory / SUMMARY)
    if not isinstance(summary, dict) or summary.get("kind") != "evaluation":
        raise BadDataError(f"{directory / SUMMARY}: not a record of an evaluation", _HINT)
    if summary.get("format") != FORMAT:
        raise BadDataError(
            f"{directory / SUMMARY}: format {summary.get('format')!r}, this mpu reads {FORMAT}",
            "use the mpu that wrote it",
        )
    try:
        sets = {
            str(name): SetInfo(
                str(info["role"]),
                int(info["rows"]),
                _text_or_none(info["digest"]),
                bool(info["multiple_choice"]),
                _text_or_none(info.get("tokens")),
            )
            for name, info in summary["sets"].items()
        }
        if any(info.rows < 1 for info in sets.values()):
            raise ValueError("a set without rows")
        left_out = {
            ("" if name == "model" else name, metric): str(reason)
            for name, reasons in summary["left_out"].items()
            for metric, reason in reasons.items()
        }
        model, settings, values = (
            dict(summary["model"]),
            dict(summary["settings"]),
            dict(summary["values"]),
        )
        made = dict(summary.get("made", {}))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadDataError(
            f"{directory / SUMMARY}: not a whole record ({type(error).__name__}: {error})", _HINT
        ) from None
    return Record(
        model, settings, sets, _columns(directory / ITEMS, sets), left_out, values, made=made
    )


def _columns(path: Path, sets: Mapping[str, SetInfo]) -> dict[tuple[str, str], Array]:
    columns: dict[tuple[str, str], Array] = {}
    seen: set[tuple[str, int]] = set()
    # Not splitlines(): what a model wrote may hold a U+2028, which JSON does not escape.
    lines = _read(path).removesuffix("\n").split("\n")
    expected = sum(info.rows for info in sets.values())
    if len(lines) < expected:
        raise BadDataError(
            f"{path}: {expected - len(lines)} rows are missing",
            "the file was cut short: evaluate again",
        )
    for number, text in enumerate(lines, start=1):
        where = f"{path}:{number}"
        line = _json(text, where)
        name, row = (
            (str(line.pop("set", "")), line.pop("row", None))
            if isinstance(line, dict)
            else ("", None)
        )
        if (
            name not in sets
            or type(row) is not int
            or not 0 <= row < sets[name].rows
            or (name, row) in seen
        ):
            raise BadDataError(f"{where}: not a row of this record's sets, or one twice", _HINT)
        seen.add((name, row))
        for metric, value in line.items():
            if isinstance(value, str):
                continue
            if value is not None and not _is_number(value):
                raise BadDataError(
                    f"{where}: {metric} is {str(value)[:40]}, expected a number or null", _HINT
                )
            column = columns.setdefault((name, metric), np.full(sets[name].rows, np.nan))
            column[row] = np.nan if value is None else value
    return columns


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadDataError(
            f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8'})", _HINT
        ) from None


def _json(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadDataError(f"{where}: not JSON ({error})", _HINT) from None


def _text_or_none(value: object) -> str | None:
    return None if value is None else str(value)


def _is_number(value: object) -> bool:
    try:
        return (
            not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        )
    except OverflowError:  # an integer that no float can hold
        return False


def plain_number(value: float) -> float | None:
    """As JSON has it: null for a row that was not measured."""
    return None if math.isnan(value) else float(value)
