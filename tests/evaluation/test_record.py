"""Records come back as they were written, whole or not at all.

Anything else is refused in one line.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from tiny_rows import questions, rows, settings

from mpu_cli.checkpoint.inventory import MARKER
from mpu_cli.errors import BadDataError, OutputError
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.records.read import read_record
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.records.write import write_record


@pytest.fixture(scope="module")
def found(tiny_pair, tmp_path_factory) -> Record:
    """A record with NaN (taught rows), reasons and what was written."""
    root = tmp_path_factory.mktemp("rows")
    sets = [
        questions(root, name, name, rows(6, seed)) for seed, name in enumerate(("forget", "retain"))
    ]
    asked = settings(robustness=("relearning", "paraphrase"), relearn_steps=1)
    return evaluate(tiny_pair("llama").model, sets, asked).record


@pytest.fixture
def kept(found, tmp_path):
    """The record on disk."""
    write_record(tmp_path / "record", found, "mpu", texts=False)
    return tmp_path / "record"


def test_a_record_comes_back(found, kept):
    """Every number bit for bit, NaN where it was, sets, settings, reasons and values.

    From the directory or its summary.
    """
    for path in (kept, kept / "summary.json"):
        read = read_record(path)
        assert read.columns.keys() == found.columns.keys()
        assert all(
            np.array_equal(read.columns[key], found.columns[key], equal_nan=True)
            for key in found.columns
        )
        assert (read.sets, read.left_out, read.values) == (found.sets, found.left_out, found.values)
        assert read.settings == json.loads(json.dumps(found.settings))
    assert np.isnan(found.columns["forget", "answer_probability@relearned-1@1e-5"]).sum() == 3
    assert sorted(path.name for path in kept.iterdir()) == [MARKER, "items.jsonl", "summary.json"]


@pytest.mark.parametrize("layout", ["mpu", "open-unlearning"])
def test_force_replaces_a_record_of_ours_and_no_other_programs(found, tmp_path, layout):
    """A record is replaced as a whole.

    The same files without the list, as another program writes them, stay.
    """
    target = tmp_path / "record"
    write_record(target, found, layout, texts=False)
    write_record(target, found, layout, texts=False, force=True)
    (target / MARKER).unlink()
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with pytest.raises(OutputError, match="has no file list from mpu") as caught:
        write_record(target, found, layout, texts=False, force=True)
    assert "remove it yourself" in str(caught.value.hint)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before


def test_the_files_are_plain_json(kept):
    """No NaN or Infinity, which other programs do not read; one line for each row."""

    def never(text: str) -> None:
        raise AssertionError(text)

    json.loads((kept / "summary.json").read_text(), parse_constant=never)
    lines = [
        json.loads(line, parse_constant=never)
        for line in (kept / "items.jsonl").read_text().splitlines()
    ]
    assert [(line["set"], line["row"]) for line in lines] == [
        (name, row) for name in ("forget", "retain") for row in range(6)
    ]


def test_texts_are_kept_only_when_asked_for(found, tmp_path):
    """And a text with any line separator of Unicode does not break the lines."""
    strange = {
        ("forget", 0): "one\u2028two\x85three\x0b\x0c\x1cfour\r\nfive",
        ("forget", 1): found.written["forget", 1],
    }
    record = Record(
        found.model,
        found.settings,
        found.sets,
        found.columns,
        found.left_out,
        found.values,
        strange,
    )
    write_record(tmp_path / "with", record, "mpu", texts=True)
    write_record(tmp_path / "without", record, "mpu", texts=False)
    assert (
        json.loads((tmp_path / "with" / "items.jsonl").read_text().split("\n")[0])["written"]
        == strange["forget", 0]
    )
    assert "written" not in (tmp_path / "without" / "items.jsonl").read_text()
    for name in ("with", "without"):
        assert read_record(tmp_path / name).columns.keys() == found.columns.keys()


def test_an_older_record_is_replaced_only_by_force(found, kept, tmp_path):
    """What is there stays as it is otherwise.

    --force replaces a record, of either layout, and nothing else.
    """
    before = (kept / "summary.json").read_bytes()
    with pytest.raises(OutputError, match="exists and is not empty"):
        write_record(kept, found, "mpu", texts=False)
    assert (kept / "summary.json").read_bytes() == before
    write_record(kept, found, "open-unlearning", texts=False, force=True)
    write_record(kept, found, "mpu", texts=False, force=True)
    assert read_record(kept).values == found.values
    own = tmp_path / "own"
    own.mkdir()
    (own / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="has no file list from mpu"):
        write_record(own, found, "mpu", texts=False, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own", "record"]


def line(path, number, change) -> None:
    """Change one line of items.jsonl; None removes it."""
    lines = path.read_text().split("\n")[:-1]
    new = change(lines[number])
    lines[number : number + 1] = [] if new is None else [new] if isinstance(new, str) else new
    path.write_text("".join(text + "\n" for text in lines))


def put(key, value):
    """A line with another value."""
    return lambda text: json.dumps({**json.loads(text), key: value})


ITEMS = {
    "missing line": (lambda text: None, "1 rows are missing"),
    "line twice": (
        lambda text: [text, text],
        "not a row of this record's sets, or a row that occurs twice",
    ),
    "unknown set": (put("set", "other"), "not a row of this record's sets"),
    "set is no text": (put("set", ["forget"]), "not a row of this record's sets"),
    "row out of range": (put("row", 6), "not a row of this record's sets"),
    "negative row": (put("row", -1), "not a row of this record's sets"),
    "row is true": (put("row", True), "not a row of this record's sets"),
    "row is text": (put("row", "1"), "not a row of this record's sets"),
    "NaN": (put("ratio", float("nan")), "ratio is nan, expected a number or null"),
    "infinity": (put("ratio", float("-inf")), "ratio is -inf, expected"),
    "an integer beyond all floats": (put("ratio", 10**400), "ratio is 1000000000"),
    "a list": (put("ratio", [1]), "expected a number or null"),
    "true": (put("ratio", True), "ratio is True"),
    "no object": (lambda text: "[1]", "not a row of this record's sets"),
    "cut short": (lambda text: text[:20], "not JSON"),
    "empty line": (lambda text: "", "not JSON"),
    "deep": (lambda text: "[" * 100_000, "not JSON"),
}


@pytest.mark.parametrize("name", ITEMS)
def test_damaged_rows_are_refused(name, kept):
    """One line that names file and line."""
    change, message = ITEMS[name]
    line(kept / "items.jsonl", 2, change)
    with pytest.raises(BadDataError) as caught:
        read_record(kept)
    assert message in caught.value.message
    assert str(kept / "items.jsonl") in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def changed(**more):
    """A summary with other values."""
    return lambda summary: {**summary, **more}


SUMMARIES = {
    "another kind": (changed(kind="handoff"), "not a record of an evaluation"),
    "a list": (lambda summary: [summary], "not a record of an evaluation"),
    "a later format": (changed(format=2), "format 2, this mpu reads format 1"),
    "no sets": (
        lambda summary: {k: v for k, v in summary.items() if k != "sets"},
        "the record is incomplete",
    ),
    "sets are a list": (changed(sets=[1]), "the record is incomplete"),
    "rows are text": (
        changed(
            sets={
                "forget": {
                    "role": "forget",
                    "rows": "six",
                    "digest": None,
                    "multiple_choice": False,
                }
            }
        ),
        "the record is incomplete",
    ),
    "no rows": (
        changed(
            sets={
                "forget": {"role": "forget", "rows": -6, "digest": None, "multiple_choice": False}
            }
        ),
        "the record is incomplete",
    ),
    "very many rows": (
        changed(
            sets={
                "forget": {
                    "role": "forget",
                    "rows": 10**15,
                    "digest": None,
                    "multiple_choice": False,
                }
            }
        ),
        "missing",
    ),
    "reasons are a list": (changed(left_out=[]), "the record is incomplete"),
    "values are a number": (changed(values=3), "the record is incomplete"),
}


@pytest.mark.parametrize("name", SUMMARIES)
def test_damaged_summaries_are_refused(name, kept):
    """One line that names the file; no memory is asked for before the rows are there."""
    change, message = SUMMARIES[name]
    (kept / "summary.json").write_text(
        json.dumps(change(json.loads((kept / "summary.json").read_text())))
    )
    with pytest.raises(BadDataError, match=message):
        read_record(kept)


@pytest.mark.parametrize(
    "break_it", ["nothing", "no items", "no summary", "not UTF-8", "not JSON", "a directory"]
)
def test_what_is_no_record_is_refused(break_it, kept, tmp_path):
    """A path that is not there, half a record, other bytes."""
    path = kept
    if break_it == "nothing":
        path = tmp_path / "nowhere"
    elif break_it == "no items":
        (kept / "items.jsonl").unlink()
    elif break_it == "no summary":
        (kept / "summary.json").unlink()
    elif break_it == "not UTF-8":
        (kept / "items.jsonl").write_bytes(b"\xff\xfe")
    elif break_it == "not JSON":
        (kept / "summary.json").write_text("{")
    else:
        (kept / "items.jsonl").unlink()
        (kept / "items.jsonl").mkdir()
    with pytest.raises(BadDataError) as caught:
        read_record(path)
    assert "\n" not in caught.value.message
    assert "mpu eval --record" in caught.value.hint


def test_a_digest_that_is_no_text_is_compared_not_crashed_on(found, kept, tiny_pair, tmp_path):
    """A record of other rows, by a digest of another type."""
    summary = json.loads((kept / "summary.json").read_text())
    summary["sets"]["forget"]["digest"] = 7
    (kept / "summary.json").write_text(json.dumps(summary))
    question_set = questions(tmp_path, "forget", "forget", rows(6, 0))
    with pytest.raises(BadDataError, match="its forget set has other rows"):
        evaluate(
            tiny_pair("llama").model,
            [question_set],
            settings(generate=False),
            before=read_record(kept),
        )


def test_records_of_other_rows_are_refused(kept, tiny_pair, tmp_path):
    """As --retain-record and --before; another retain set does not matter there."""
    other = [questions(tmp_path, "forget", "forget", rows(6, 9))]
    for name in ("retain_record", "before"):
        with pytest.raises(
            BadDataError, match=f"--{name.replace('_', '-')}: its forget set has other rows"
        ):
            evaluate(
                tiny_pair("llama").model,
                other,
                settings(generate=False),
                **{name: read_record(kept)},
            )
    same = [
        questions(tmp_path, "forget", "forget", rows(6, 0)),
        questions(tmp_path, "retain", "retain", rows(4, 9)),
    ]
    done = evaluate(
        tiny_pair("llama").model, same, settings(generate=False), retain_record=read_record(kept)
    )
    # Other batches move a ratio by a rounding error, and equal values are then one row apart.
    assert done.record.values["model"]["forget_distance"]["value"] <= 1 / 6
    assert done.record.values["model"]["forget_quality"]["value"] == pytest.approx(1)


def test_intervals_of_few_rows_are_numbers(tiny_pair, tmp_path):
    """Of two rows one is taught.

    Of the other one alone nothing is known, and the summary has neither an interval nor a NaN.
    """
    question_set = questions(tmp_path, "forget", "forget", rows(2, 0))
    found = evaluate(
        tiny_pair("llama").model,
        [question_set],
        settings(generate=False, robustness=("relearning",), relearn_steps=1),
    ).record
    one = found.values["forget"]["answer_probability@relearned-1@1e-5"]
    assert set(one) == {"value"}
    assert "NaN" not in json.dumps(found.summary())


def test_the_summary_says_which_model_and_what_was_asked(found, tiny_pair, tmp_path, monkeypatch):
    """The directory's own name, never its path; a model given as "." has one too."""
    assert found.model["name"] == "model"
    model = shutil.copytree(tiny_pair("llama").model, tmp_path / "mine")
    monkeypatch.chdir(model)
    from pathlib import Path

    question_set = questions(tmp_path, "forget", "forget", rows(2, 0))
    assert evaluate(Path(), [question_set], settings(generate=False)).record.model["name"] == "mine"
