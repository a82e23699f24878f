"""TOFU's other wordings.

Read from every format, refused where they are none, part of the digest.
"""

from __future__ import annotations

import csv
import json

import pytest
from tiny_rows import rows, write

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.questions import read_questions

ROW = {
    "question": "Where?",
    "answer": "In Oskel.",
    "paraphrased_question": "In which place?",
    "paraphrased_answer": "Oskel it was.",
    "perturbed_answer": ["In Mira.", "In Brough."],
}


def read(tmp_path, *values, name="forget.jsonl"):
    """A set of these rows."""
    return read_questions("forget", "forget", write(tmp_path / name, list(values)))


def test_all_wordings_become_rows(tmp_path):
    """Each wording is the row with another answer or question; a row without has none."""
    full, bare = read(tmp_path, ROW, {"question": "Who?", "answer": "Mira."}).questions
    assert [row.answer for row in full.variants("answer")] == ["In Oskel."]
    assert [row.answer for row in full.variants("paraphrased answer")] == ["Oskel it was."]
    assert [row.answer for row in full.variants("perturbed answers")] == ["In Mira.", "In Brough."]
    assert [(row.prompt, row.answer) for row in full.variants("paraphrased question")] == [
        ("In which place?", "In Oskel.")
    ]
    assert {row.prompt for row in full.variants("perturbed answers")} == {"Where?"}
    assert [
        bare.variants(name)
        for name in ("paraphrased answer", "perturbed answers", "paraphrased question")
    ] == [()] * 3


def test_one_wrong_answer_may_be_a_text(tmp_path):
    """World facts of some versions have one; a paraphrase may be a list of one."""
    (only,) = read(
        tmp_path, {**ROW, "perturbed_answer": "In Mira.", "paraphrased_answer": ["Oskel it was."]}
    ).questions
    assert only.perturbed_answers == ("In Mira.",)
    assert only.paraphrased_answer == "Oskel it was."


def test_a_chat_has_wrong_answers_too(tmp_path):
    """The last turn is replaced, the others stay."""
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Oskel."}]
    (only,) = read(tmp_path, {"messages": turns, "perturbed_answer": ["In Mira."]}).questions
    (wrong,) = only.variants("perturbed answers")
    assert [turn.content for turn in wrong.messages] == ["Where?", "In Mira."]
    assert only.answer_text == "In Oskel."


def test_a_chat_is_asked_otherwise(tmp_path):
    """The last question is replaced; where there is none, the key is refused and not dropped."""
    turns = [
        {"role": role, "content": said}
        for role, said in (("system", "Be short."), ("user", "Where?"), ("assistant", "In Oskel."))
    ]
    (only,) = read(
        tmp_path, {"messages": turns, "paraphrased_question": "In which town?"}
    ).questions
    (asked,) = only.variants("paraphrased question")
    assert [turn.content for turn in asked.messages] == ["Be short.", "In which town?", "In Oskel."]
    with pytest.raises(
        BadDataError,
        match=r"forget\.jsonl:1: 'paraphrased_question', but the turn before the answer is not",
    ):
        read(tmp_path, {"messages": [turns[0], turns[2]], "paraphrased_question": "In which town?"})


@pytest.mark.parametrize("key", ["perturbed_answer", "paraphrased_answer", "paraphrased_question"])
@pytest.mark.parametrize(
    "value", [7, {"a": 1}, [], [""], ["  "], ["fine", 7], [["nested"]], "  ", True]
)
def test_what_is_no_text_is_refused(key, value, tmp_path):
    """One line with file and line, and the key."""
    with pytest.raises(
        BadDataError,
        match=rf"^forget\.jsonl:2: '{key}' must be a text or a list of texts, none of them empty$",
    ):
        read(tmp_path, ROW, {**ROW, key: value})


@pytest.mark.parametrize("value", [None, ""])
def test_null_and_empty_are_absent(value, tmp_path):
    """As tables have them where a row has no such cell."""
    (only,) = read(
        tmp_path, {**ROW, "perturbed_answer": value, "paraphrased_answer": value}
    ).questions
    assert (only.perturbed_answers, only.paraphrased_answer) == ((), None)


def test_a_plain_text_has_no_other_wordings(tmp_path):
    """There is no answer to replace."""
    with pytest.raises(
        BadDataError, match=r"forget\.jsonl:1: 'perturbed_answer' cannot belong to a plain text"
    ):
        read(tmp_path, {"text": "In Oskel.", "perturbed_answer": ["x"]})


def test_multiple_choice_is_a_set_whose_wrong_answers_stand_beside_the_right_one(tmp_path):
    """Real authors and world facts: all rows have wrong answers, none a paraphrase."""
    choice = rows(3, 0, choice=True)
    assert read(tmp_path, *choice).multiple_choice
    assert not read(tmp_path, *rows(3, 0)).multiple_choice
    assert not read(tmp_path, *choice, {"question": "Who?", "answer": "Mira."}).multiple_choice


def test_the_digest_is_of_the_content(tmp_path):
    """JSON Lines, a JSON list, CSV, Parquet and other keys give the same.

    Any change of a text gives another.
    """
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = [{**row, "perturbed_answer": row["perturbed_answer"][0]} for row in rows(5, 0)]
    first = read(tmp_path, *values).digest
    (tmp_path / "list.json").write_text(json.dumps(values, indent=3))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(values[0]))
        table.writeheader()
        table.writerows(values)
    parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "table.parquet")
    renamed = [
        {"prompt": row["question"], "completion": row["answer"], "note": 3, **row} for row in values
    ]
    for row in renamed:
        del row["question"], row["answer"]
    write(tmp_path / "renamed.jsonl", renamed)
    for name in ("list.json", "table.csv", "table.parquet", "renamed.jsonl"):
        assert read_questions("retain", "retain", tmp_path / name).digest == first, name
    for key in ROW:
        changed = [{**values[0], key: values[0][key] + " w1"}, *values[1:]]
        assert read(tmp_path, *changed, name="changed.jsonl").digest != first, key
    assert read(tmp_path, *values[::-1], name="changed.jsonl").digest != first
    assert read(tmp_path, *values[:-1], name="changed.jsonl").digest != first


def test_a_list_of_wrong_answers_comes_back_from_parquet(tmp_path):
    """As the Hub's TOFU has them."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    values = rows(4, 2)
    parquet.write_table(pyarrow.Table.from_pylist(values), tmp_path / "table.parquet")
    assert (
        read_questions("x", "forget", tmp_path / "table.parquet").digest
        == read(tmp_path, *values).digest
    )


def test_mapped_columns_are_followed(tmp_path):
    """--map names the row's own columns; the other wordings keep theirs."""
    values = [
        {"q": row["question"], "a": row["answer"], "perturbed_answer": row["perturbed_answer"]}
        for row in rows(3, 0)
    ]
    question_set = read_questions(
        "x", "forget", write(tmp_path / "own.jsonl", values), {"prompt": "q", "answer": "a"}
    )
    assert [len(question.perturbed_answers) for question in question_set.questions] == [
        len(row["perturbed_answer"]) for row in values
    ]
