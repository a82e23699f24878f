"""Equal rows inside a file and between two files: a row to forget must not be a row to keep."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from mpu_cli.data.rows import Row


def normalised(text: str) -> str:
    """The text without differences of compatibility forms, letter case and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def duplicates(rows: Sequence[Row]) -> tuple[tuple[str, ...], ...]:
    """Groups of two or more equal rows of one file, by their places."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        groups.setdefault(_key(row), []).append(row.where)
    return tuple(tuple(places) for places in groups.values() if len(places) > 1)


def in_both(forget: Sequence[Row], retain: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Rows of the forget set that are in the retain set too: (place, first place in the latter)."""
    known: dict[tuple[str, ...], str] = {}
    for row in retain:
        known.setdefault(_key(row), row.where)
    return tuple((row.where, known[_key(row)]) for row in forget if _key(row) in known)


def same_prompt(forget: Sequence[Row], retain: Sequence[Row]) -> tuple[tuple[str, str], ...]:
    """Rows that have the same prompt in both sets, but another answer."""
    both = {place for place, _ in in_both(forget, retain)}
    known: dict[tuple[str, ...], str] = {}
    for row in retain:
        if row.text is None:
            known.setdefault(_key(row)[:-1], row.where)
    pairs = (
        (row.where, known.get(_key(row)[:-1]))
        for row in forget
        if row.text is None and row.where not in both
    )
    return tuple((place, other) for place, other in pairs if other is not None)


def contents(row: Row) -> tuple[str, ...]:
    """The texts of a row in order: prompt and answer, a chat's turns, or the one text."""
    if row.text is not None:
        return (row.text,)
    return tuple(turn.content for turn in row.messages) or (row.prompt or "", row.answer or "")


def _key(row: Row) -> tuple[str, ...]:
    # A chat of two turns is the pair that it holds.
    return tuple(map(normalised, contents(row)))
