"""--map: a closed set of fields, columns by any name, and what to do when one is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mpu_cli.data.mapping import parse_mapping
from mpu_cli.data.rows import Message, Row, read_rows
from mpu_cli.errors import BadDataError, UsageError

CHAT = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def rows(tmp_path: Path, value: object, *assignments: str) -> list[Row]:
    """Read one object through a mapping."""
    path = tmp_path / "forget.jsonl"
    path.write_text(json.dumps(value))
    return read_rows(path, parse_mapping(assignments))


def test_each_field_from_any_column(tmp_path: Path) -> None:
    """Prompt and answer, messages, text and alternate are read from the named columns."""
    value = {
        "instruction": "Q",
        "output": "A",
        "conversation": CHAT,
        "body": "T",
        "no": "B",
        "question": "no",
        "text": "no",
    }
    where = "forget.jsonl:1"
    pair = ("prompt=instruction", "answer=output")
    assert rows(tmp_path, value, *pair) == [Row(where, prompt="Q", answer="A")]
    assert rows(tmp_path, value, *pair, "alternate=no") == [
        Row(where, prompt="Q", answer="A", alternate="B")
    ]
    assert rows(tmp_path, value, "messages=conversation") == [
        Row(where, messages=(Message("user", "Q"), Message("assistant", "A")))
    ]
    assert rows(tmp_path, value, "text=body") == [Row(where, text="T")]
    # A field may live in a column that usually means something else.
    assert rows(tmp_path, {"text": CHAT, "messages": "T"}, "messages=text")[0].messages
    assert rows(tmp_path, {"text": CHAT, "messages": "T"}, "text=messages")[0].text == "T"


def test_one_half_of_a_pair(tmp_path: Path) -> None:
    """If only the answer is mapped, the prompt is read from its one usual key."""
    assert rows(tmp_path, {"question": "Q", "response": "A"}, "answer=response")[0].prompt == "Q"
    assert rows(tmp_path, {"instruction": "Q", "gt": "A"}, "prompt=instruction")[0].answer == "A"
    # Swapped columns stay swapped.
    assert (
        rows(tmp_path, {"question": "Q", "answer": "A"}, "prompt=answer", "answer=question")[
            0
        ].answer
        == "Q"
    )
    with pytest.raises(
        BadDataError, match=r"no column for prompt: the row has neither 'question' nor 'prompt'"
    ):
        rows(tmp_path, {"response": "A"}, "answer=response")
    with pytest.raises(
        BadDataError, match=r"no column for prompt: the row has both 'question' and 'prompt'"
    ):
        rows(tmp_path, {"question": "Q", "prompt": "Q", "response": "A"}, "answer=response")


def test_a_mapping_chooses_between_two_forms(tmp_path: Path) -> None:
    """A row of two forms is refused, unless the mapping chooses."""
    both = {"question": "Q", "answer": "A", "text": "T"}
    with pytest.raises(BadDataError, match="the row has two forms"):
        rows(tmp_path, both)
    assert rows(tmp_path, both, "text=text")[0].text == "T"


@pytest.mark.parametrize(
    ("found", "kept"),
    [("B", "B"), (["B", "C"], "B"), (None, None), ("", None), (" ", None), ([], None)],
)
def test_alternates(tmp_path: Path, found: object, kept: str | None) -> None:
    """An alternate is a text or the first of a list of them; null and blank are none."""
    assert rows(tmp_path, {"question": "Q", "answer": "A", "alternate": found})[0].alternate == kept
    assert (
        rows(tmp_path, {"question": "Q", "answer": "A", "wrong": found}, "alternate=wrong")[
            0
        ].alternate
        == kept
    )


def test_a_paraphrase_is_no_alternate_by_itself(tmp_path: Path) -> None:
    """TOFU's paraphrased answer is a true one, and preferring it would teach it.

    It has to be asked for.
    """
    value = {"question": "Q", "answer": "A", "paraphrased_answer": "The A"}
    assert rows(tmp_path, value)[0].alternate is None
    assert rows(tmp_path, value, "alternate=paraphrased_answer")[0].alternate == "The A"


def test_refuses_an_alternate_that_is_no_text(tmp_path: Path) -> None:
    """A number, and an alternate asked for beside a plain text."""
    with pytest.raises(
        BadDataError, match=r"forget\.jsonl:1: 'alternate' must be a string, found a number"
    ):
        rows(tmp_path, {"question": "Q", "answer": "A", "alternate": 3})
    with pytest.raises(BadDataError, match="a text has no answer that an alternate could replace"):
        rows(tmp_path, {"text": "T", "wrong": "B"}, "alternate=wrong")


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("forget.jsonl", '{"instruction": "Q", "output": "A"}', "forget.jsonl:1"),
        ("forget.csv", "instruction,output\nQ,A\n", "forget.csv"),
    ],
)
def test_an_unknown_column_names_the_nearest(
    tmp_path: Path, name: str, content: str, place: str
) -> None:
    """The message has the flag, the remedy the nearest name or, if none is near, all of them."""
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadDataError) as caught:
        read_rows(path, {"prompt": "instructon"})
    assert caught.value.message in {
        f"{place}: no {kind}'instructon' (--map prompt=instructon)" for kind in ("", "column ")
    }
    assert caught.value.hint == "did you mean instruction?"
    with pytest.raises(BadDataError) as caught:
        read_rows(path, {"prompt": "zzz"})
    both = "; --map applies to every file of rows: use the same column names"
    assert caught.value.hint == f"columns found: 'instruction', 'output'{both}"


@pytest.mark.parametrize(
    ("assignments", "message", "hint"),
    [
        (["prompt"], "--map prompt: expected field=column", "--map prompt=instruction"),
        (["prompt="], "--map prompt=: expected field=column", None),
        (["promt=q"], "unknown field 'promt'", "did you mean prompt?"),
        (
            ["colour=q"],
            "unknown field 'colour'",
            "fields are prompt, answer, messages, text, alternate",
        ),
        (["prompt=a", "prompt=b"], "'prompt' is mapped twice", None),
        (["prompt=a", "text=b"], "prompt and text are fields of two kinds of row", None),
        (["messages=a", "text=b"], "messages and text", None),
        (["alternate=a", "text=b"], "alternate and text", None),
    ],
)
def test_refuses_a_bad_mapping(assignments: list[str], message: str, hint: str | None) -> None:
    """A usage error that names the flag."""
    with pytest.raises(UsageError) as caught:
        parse_mapping(assignments)
    assert message in caught.value.message
    assert hint is None or hint in (caught.value.hint or "")


def test_a_mapping_is_sorted_and_keeps_equals_signs() -> None:
    """The same mapping in another order is the same, and a column's name may hold '='."""
    assert list(parse_mapping(["prompt=a=b", "answer=c"]).items()) == [
        ("answer", "c"),
        ("prompt", "a=b"),
    ]


def test_muse_verbatim_rows(tmp_path: Path) -> None:
    """MUSE's verbatim set has prompt and gt."""
    assert rows(tmp_path, {"prompt": "It was", "gt": "a night"}) == [
        Row("forget.jsonl:1", prompt="It was", answer="a night")
    ]
