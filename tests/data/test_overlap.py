"""Two sets that must have nothing in common.

What is said of rows that are in both, and when it is refused.
"""

from __future__ import annotations

import pytest

from mpu_cli.data.overlap import RowSet, check_disjoint
from mpu_cli.data.rows import Message, Row
from mpu_cli.errors import BadDataError


def rows(file: str, *texts: str) -> list[Row]:
    """Plain texts of a file."""
    return [Row(f"{file}:{number}", text=text) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("forget", "retain", "told"),
    [
        (["a", "b"], ["c", "d"], None),
        (["a", "b"], [], None),
        (
            ["a", "b", "c"],
            ["x", " A ", "y"],
            "--forget: 1 of its 3 rows are in --retain too: f:1 = r:2",
        ),
        (
            ["a", "a", "c"],
            ["x", "a", "a"],
            "--forget: 2 of its 3 rows are in --retain too: f:1 = r:2, f:2 = r:2",
        ),
        (
            [*"abcdefz"],
            [*"abcdefy"],
            (
                "--forget: 6 of its 7 rows are in --retain too: f:1 = r:1, f:2 = r:2, f:3 = r:3,"
                " and 3 more"
            ),
        ),
    ],
)
def test_a_part_in_common_is_a_warning(forget, retain, told):
    """With counts, the first places, and no more than three of them."""
    assert (
        check_disjoint(
            RowSet("--forget", rows("f", *forget)),
            RowSet("--retain", rows("r", *retain)),
            allow=False,
        )
        == told
    )


@pytest.mark.parametrize(
    ("forget", "retain", "told"),
    [
        (
            ["a", "b"],
            ["b", "x", "a"],
            "--forget: all of its rows (2) are in --retain too: f:1 = r:3, f:2 = r:1",
        ),
        (
            ["a", "b", "x"],
            ["B", "a"],
            "--retain: all of its rows (2) are in --forget too: f:1 = r:2, f:2 = r:1",
        ),
        (["a"], ["a"], "--forget: all of its rows (1) are in --retain too: f:1 = r:1"),
        (
            ["a", "a", "x"],
            ["a"],
            "--retain: all of its rows (1) are in --forget too: f:1 = r:1, f:2 = r:1",
        ),
    ],
)
def test_a_whole_set_in_the_other_is_refused(forget, retain, told):
    """Whichever of the two it is; --allow-overlap makes a warning of it."""
    sets = RowSet("--forget", rows("f", *forget)), RowSet("--retain", rows("r", *retain))
    with pytest.raises(BadDataError) as refused:
        check_disjoint(*sets, allow=False)
    assert refused.value.message == told
    assert "--allow-overlap" in str(refused.value.hint)
    assert check_disjoint(*sets, allow=True) == told


def test_the_form_of_a_row_does_not_hide_it():
    """A chat of two turns is the pair that it holds; several wordings at one place are one row."""
    pair = RowSet(
        "--forget",
        [
            Row("f:1", prompt="Q?", answer="A"),
            Row("f:1", prompt="In other words?", answer="A"),
            *rows("g", "t"),
        ],
    )
    chat = RowSet(
        "--retain",
        [
            Row("r:1", messages=(Message("user", "in other words?"), Message("assistant", "a"))),
            *rows("s", "u"),
        ],
    )
    assert pair.size == 2
    assert (
        check_disjoint(pair, chat, allow=False)
        == "--forget: 1 of its 2 rows are in --retain too: f:1 = r:1"
    )
