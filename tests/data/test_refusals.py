"""Refusals: read from lines or rows, dealt evenly, and dealt the same for every copy."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from mpu_cli.data.refusals import read_refusals, with_refusals
from mpu_cli.data.rows import Message, Row
from mpu_cli.errors import BadDataError

ROWS = [Row(f"f:{number}", prompt="Q", answer="A") for number in range(10)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("idontknow.txt", "I don't know.\r\n\n  No idea.  \n"),
        (
            "idontknow.jsonl",
            "I don't know.\nNo idea.\n",
        ),  # TOFU's own file has this suffix and holds plain lines
        ("refusals.jsonl", '{"text": "I don\'t know."}\n{"text": "No idea."}\n'),
        ("refusals.json", '["I don\'t know.", "No idea."]'),
        ("refusals.csv", "text\nI don't know.\nNo idea.\n"),
    ],
)
def test_lines_and_rows(tmp_path: Path, name: str, content: str) -> None:
    """Plain lines under any suffix, or rows with text."""
    (tmp_path / name).write_text(content)
    assert read_refusals(tmp_path / name) == ["I don't know.", "No idea."]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("\n \n", "has no refusals"),
        (
            '{"question": "Q", "answer": "A"}',
            "a refusal must be a row with 'text', found prompt/answer",
        ),
    ],
)
def test_refuses_other_files(tmp_path: Path, content: str, expected: str) -> None:
    """No refusal at all, and rows of another form."""
    (tmp_path / "refusals.jsonl").write_text(content)
    with pytest.raises(BadDataError, match=expected):
        read_refusals(tmp_path / "refusals.jsonl")


def test_dealt_like_cards() -> None:
    """Refusals are used equally often to within one, and replace a row's own alternate only."""
    dealt = with_refusals(
        [Row("f:0", prompt="Q", answer="A", alternate="B"), *ROWS[1:]], ["x", "y", "z"], seed=0
    )
    assert sorted(Counter(row.alternate for row in dealt).values()) == [3, 3, 4]
    assert [row.where for row in dealt] == [row.where for row in ROWS]
    assert dealt[0].answer == "A"


def test_the_same_seed_deals_the_same() -> None:
    """Pinned, for a copy that is trained on another machine.

    Another seed differs, and no global generator moves.
    """
    state = random.getstate()
    alternates = [row.alternate for row in with_refusals(ROWS, ["x", "y", "z"], seed=0)]
    assert alternates == [row.alternate for row in with_refusals(ROWS, ["x", "y", "z"], seed=0)]
    assert "".join(map(str, alternates)) == "xzyzyxxyzx"
    assert alternates != [row.alternate for row in with_refusals(ROWS, ["x", "y", "z"], seed=1)]
    assert random.getstate() == state


def test_a_row_with_its_alternate_in_place_of_the_answer() -> None:
    """For a pair and for a chat; a text has no answer to replace and gets no refusal."""
    assert ROWS[0].with_answer("B") == Row("f:0", prompt="Q", answer="B")
    chat = Row("f:1", messages=(Message("user", "Q"), Message("assistant", "A")))
    assert chat.with_answer("B").messages == (Message("user", "Q"), Message("assistant", "B"))
    for act in (lambda row: row.with_answer("B"), lambda row: with_refusals([row], ["x"], 0)):
        with pytest.raises(BadDataError, match=r"f:2: a text has no answer"):
            act(Row("f:2", text="T"))
    with pytest.raises(BadDataError, match="list of refusals is empty"):
        with_refusals(ROWS, [], 0)
