"""What is the same, inside a file and between what is forgotten and what is kept."""

from __future__ import annotations

from mpu_cli.data.check import Spread
from mpu_cli.data.duplicates import duplicates, in_both, same_prompt
from mpu_cli.data.rows import Message, Row


def test_duplicates_are_found_normalised() -> None:
    """Case, white space and compatibility forms do not count.

    A full stop does; a chat of two turns is the pair it holds.
    """
    rows = [
        Row("f:1", prompt="Who is  it?", answer="Mira"),
        Row("f:2", prompt="who is it?\n", answer="ＭＩＲＡ"),
        Row("f:3", messages=(Message("user", "Who is it?"), Message("assistant", "Mira"))),
        Row("f:4", prompt="Who is it?", answer="Mira."),
        Row("f:5", text="Who is it? Mira"),
        Row("f:6", text="who is it? mira"),
    ]
    assert duplicates(rows) == (("f:1", "f:2", "f:3"), ("f:5", "f:6"))
    assert duplicates(rows[3:5]) == ()


def test_rows_in_both_sets_and_prompts_with_another_answer() -> None:
    """Each forget row is reported once.

    As the same, or as the same prompt kept with another answer.
    """
    forget = [
        Row("f:1", prompt="Q", answer="A"),
        Row("f:2", prompt="Q2", answer="A"),
        Row("f:3", text="T"),
        Row("f:4", text="U"),
    ]
    retain = [
        Row("r:1", prompt="q", answer="B"),
        Row("r:2", prompt="q", answer="a"),
        Row("r:3", prompt="Q2", answer="B"),
        Row("r:4", text="t"),
    ]
    assert in_both(forget, retain) == (("f:1", "r:2"), ("f:3", "r:4"))
    assert same_prompt(forget, retain) == (("f:2", "r:3"),)
    assert in_both(forget, []) == same_prompt(forget, []) == ()


def test_spread_by_nearest_rank() -> None:
    """Values that occur, at one row, at a hundred, and none at all."""
    assert Spread.of([]) is None
    assert Spread.of([7]) == Spread(7, 7, 7, 7)
    assert Spread.of(range(100, 0, -1)) == Spread(1, 50, 95, 100)
    assert Spread.of([3, 1]) == Spread(1, 1, 3, 3)
