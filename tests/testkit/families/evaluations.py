"""Evaluation records with rows, sets and numbers that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case


def _summary(change: Callable[[dict], object]):
    def damage(x: Path, w: object) -> None:
        path = x / "summary.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def _first_set(content: dict) -> dict:
    return next(iter(content["sets"].values()))


SUMMARY = {
    "not an evaluation": lambda c: c.update(kind="handoff"),
    "sets that are a list": lambda c: c.update(sets=[]),
    "a set without rows": lambda c: _first_set(c).update(rows=0),
    "a set of −1 rows": lambda c: _first_set(c).update(rows=-1),
    "a set of 10¹² rows": lambda c: _first_set(c).update(rows=10**12),
    "rows that are a text": lambda c: _first_set(c).update(rows="many"),
    "no model": lambda c: c.pop("model"),
    "values that are a number": lambda c: c.update(values=3),
    "reasons that are a list": lambda c: c.update(left_out=["x"]),
}
FORMAT = {"format 2": lambda c: c.update(format=2)}


def _items(change: Callable[[list[str]], list[str]]):
    def damage(x: Path, w: object) -> None:
        path = x / "items.jsonl"
        lines = change(path.read_text().splitlines())
        path.write_text("".join(f"{line}\n" for line in lines))

    return damage


def _with(line: str, **changes: object) -> str:
    return json.dumps({**json.loads(line), **changes})


ITEMS = {
    "a row twice": lambda lines: [*lines, lines[0]],
    "a row of an unknown set": lambda lines: [_with(lines[0], set="x"), *lines[1:]],
    "a row beyond the set": lambda lines: [_with(lines[0], row=10**6), *lines[1:]],
    "a row number that is true": lambda lines: [_with(lines[0], row=True), *lines[1:]],
    "a NaN": lambda lines: [_with(lines[0], answer_probability=float("nan")), *lines[1:]],
    "an infinity": lambda lines: [_with(lines[0], answer_probability=float("inf")), *lines[1:]],
    "a number of 400 digits": lambda lines: [
        _with(lines[0], answer_probability=10**400),
        *lines[1:],
    ],
    "a list as a number": lambda lines: [_with(lines[0], answer_probability=[1]), *lines[1:]],
    "100,000 lists deep": lambda lines: ["[" * 100_000, *lines[1:]],
    "a list as a row": lambda lines: ["[]", *lines[1:]],
    "an empty line": lambda lines: [lines[0], "", *lines[1:]],
    "a NUL": lambda lines: ["\0", *lines[1:]],
}


def cases() -> Iterator[Case]:
    """In the summary and in the rows."""
    for said, change in {**SUMMARY, **FORMAT}.items():
        but = UNSEEN if "10¹² rows" in said else {}  # the rows are counted elsewhere
        yield Case(f"record: {said}", "record", _summary(change), but=but)
    for said, change in ITEMS.items():
        yield Case(f"record: rows: {said}", "record", _items(change), but=UNSEEN)
