"""The output of `mpu eval` and `mpu compare`: headline, arrows, a dozen numbers, Markdown, CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest

from mpu_cli.cli.eval_view import Beside, View, headline, shown
from mpu_cli.cli.figures import CSV, MARKDOWN, TEXT, markdown
from mpu_cli.evaluation.key_numbers import MOST, direction, key_numbers
from mpu_cli.evaluation.metrics import all_metrics
from mpu_cli.evaluation.records.record import Record, SetInfo
from mpu_cli.evaluation.records.write import write_record
from mpu_cli.evaluation.summarise import means, summarise

ROWS = 24


def record(forget=0.1, retain=0.9, relearned=0.6, extra=()) -> Record:
    """A record with made-up rows, and with `extra` columns of the forget set."""
    spread = np.linspace(-0.05, 0.05, ROWS)
    columns = {
        ("forget", "answer_probability"): forget + spread,
        ("retain", "answer_probability"): retain + spread,
    }
    for name, level in (
        ("relearned-0", forget),
        ("relearned-1@1e-5", forget + 0.01),
        ("relearned-1@3e-4", relearned),
        ("relearned-2@3e-4", relearned - 0.1),
        ("relearned-worst", relearned),
    ):
        columns["forget", f"answer_probability@{name}"] = np.where(
            np.arange(ROWS) < 4, np.nan, level + spread
        )
    columns |= {("forget", name): np.full(ROWS, 0.5) for name in extra}
    infos = {name: SetInfo(name, ROWS, "0" * 64) for name in ("forget", "retain")}
    made = summarise(
        Record({"name": "m"}, {"robustness": ["relearning"]}, infos, columns), None, (), 0, 1000
    )
    return replace(made, left_out={("", "privacy_leakage"): "no --retain-record was given"})


def text_of(body) -> str:
    """All cells and lines of a result."""
    tables = [
        [str(one) for column in part.columns for one in (column.header, *column.cells)]
        for part in body
        if not isinstance(part, str)
    ]
    return "\n".join(
        [part for part in body if isinstance(part, str)] + [" ".join(cells) for cells in tables]
    )


def test_the_headline_names_forgotten_retained_and_relearned():
    """With the values before, and those of a model that never saw the rows."""
    now, old, never = (
        record(0.1, 0.9, 0.6),
        means(record(0.95, 0.93)),
        means(record(0.05, 0.94, 0.3)),
    )
    assert (
        headline(now.summary(), Beside(old, never))
        == "Forget rows: answer probability .100 (before .950, a model that never saw them .050),"
        " lower is better. Retain rows: answer probability .900 (before .930), higher is better."
        " Relearning a few forget rows brings the others to .609 (.309 in a model that never saw"
        " them)."
    )
    assert headline({**now.summary(), "values": {}}, Beside()) is None


def test_relearning_is_shown_by_rate_beside_the_control():
    """All rates, the worst one marked, beside the control or a line that there is none."""
    never = means(record(0.05, 0.94, 0.3))
    body, _ = shown(record().summary(), View(MARKDOWN, beside=Beside(never_saw=never)))
    text = text_of(body)
    assert "| 1e-5 | 0.1087 | 0.1187 | 1 | 0.0587 to 0.0687 |" in text
    assert "| 3e-4, worst | 0.1087 | 0.6087 | 1 | 0.0587 to 0.3087 |" in text
    assert "no control" not in text
    alone, _ = shown(record().summary(), View(MARKDOWN))
    assert "no control: a model that never saw these rows would learn them too" in text_of(alone)


@pytest.mark.parametrize("form", [TEXT, MARKDOWN])
def test_a_dozen_numbers_and_the_rest_with_all(form):
    """Hidden numbers are counted, --all shows them; missing metrics have one line per reason."""
    made = record(
        extra=[f"rouge_recall@leak-{k}" for k in (1, 2, 4, 8)]
        + ["empty", "repetition", "extraction_strength", "truth_ratio"]
    )
    body, lines = shown(made.summary(), View(form))
    text = text_of(body)
    total = sum(map(len, made.values.values()))
    names = [f"{owner} {metric}" for owner, metrics in made.values.items() for metric in metrics]
    hidden = len([name for name in names if f"{name} " not in text])
    assert 0 < len(names) - hidden <= MOST < total
    assert "forget answer_probability@relearned-worst" in text
    assert "forget rouge_recall@leak-8" in text
    assert "leak-4" not in text
    assert lines[0] == f"{hidden} more numbers are not shown; give --all to see them"
    assert [line for line in lines if line.startswith("left out")] == [
        "left out  privacy_leakage: no --retain-record was given"
    ]
    every, lines = shown(made.summary(), View(form, every=True))
    assert all(f"{name} " in text_of(every) for name in names)
    assert not [line for line in lines if line.startswith("not shown")]


def test_csv_has_every_number_in_full():
    """Csv reads the table back bit for bit; missing values are empty, not NaN."""
    made = record(extra=["theirs"])
    (text,), _ = shown(made.summary(), View(CSV, beside=Beside(before=means(record(0.9)))))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == sum(map(len, made.values.values()))
    for row in rows:
        one = made.values[row["set"]][row["metric"]]
        assert float(row["value"]) == one["value"]
        assert row["low"] == ("" if "low" not in one else repr(one["low"]))
    assert (rows[0]["better"], float(rows[0]["before"])) == ("lower", pytest.approx(0.9))
    assert "nan" not in text


@pytest.mark.parametrize(
    ("owner", "role", "metric", "better"),
    [
        ("forget", "forget", "answer_probability", "lower"),
        ("retain", "retain", "answer_probability", "higher"),
        ("world", "utility", "rouge_recall@4-bit", "higher"),
        ("forget", "forget", "answer_probability@relearned-2@3e-4", "lower"),
        ("forget", "forget", "truth_ratio", "higher"),
        ("retain", "retain", "truth_ratio", "higher"),  # TOFU's has another formula there
        ("retain", "retain", "repetition", "lower"),  # babbling is bad everywhere
        ("retain", "retain", "ngram_entropy", "higher"),
        ("knowledge", "knowledge", "knowledge_memorization", "lower"),
        ("retain_knowledge", "knowledge", "knowledge_memorization", "higher"),
        ("verbatim", "verbatim", "verbatim_memorization", "lower"),
        ("model", "model", "model_utility", "higher"),
        ("model", "model", "forget_distance@8-bit", "lower"),
        ("model", "model", "membership_min_k", "0.5"),
        ("model", "model", "privacy_leakage", "0"),
        ("forget", "forget", "relearning_steps", "higher"),
        ("forget", "forget", "truth_probability", ""),
        ("forget", "forget", "of another program", ""),
    ],
)
def test_which_way_is_better(owner, role, metric, better):
    """For forget and retain rows; empty if it depends."""
    assert direction(owner, role, metric) == better


def test_every_metric_has_a_direction_or_none():
    """A word that has an arrow, a number, or a dash."""
    assert {metric.better for metric in all_metrics().values()} <= {
        "lower",
        "higher",
        "0",
        "0.5",
        "–",
    }


def test_the_first_numbers_keep_their_order():
    """Few numbers are all shown; of many the most important, in their order."""
    few = [("forget", "forget", f"m{i}") for i in range(MOST)]
    assert key_numbers(few) == few
    telling = [("retain", "retain", "answer_probability"), ("forget", "forget", "truth_ratio")]
    assert key_numbers([*few, *telling]) == telling


def test_markdown_cells_hold_no_bars():
    """A bar in a name does not end the cell."""
    assert markdown(("a", "b"), [("x|y", "1")]).splitlines() == [
        "| a | b |",
        "| --- | ---: |",
        "| x\\|y | 1 |",
    ]


@pytest.fixture
def kept(tmp_path):
    """Two records on disk."""
    for name, made in (("one", record()), ("other", record(0.3))):
        write_record(tmp_path / name, made, "mpu", texts=False)
    return tmp_path


def test_compare_in_every_format(kept, mpu):
    """Text, Markdown, and CSV alone on stdout with the notes on stderr."""
    arguments = ("compare", kept / "one", kept / "other")
    text = mpu(*arguments)
    assert text.code == 0, text.err
    assert text.out.startswith(
        "other against one, 7 numbers: 1 different (forget answer_probability), "
    )
    assert "no margin: give --before RECORD" in text.out
    assert "0.0000" not in "".join(
        line.split("…")[-1] for line in text.out.splitlines()
    )  # no margin is no margin of nothing
    assert mpu(*arguments, "-q").out.splitlines() == text.out.splitlines()[:1]
    page = mpu(*arguments, "--output-format", "markdown").out
    assert "| forget answer_probability | ↓ lower | 0.1000 | 0.3000 | +0.2000 |" in page
    assert "- note: no margin" in page
    table = mpu(*arguments, "--output-format", "csv")
    rows = list(csv.DictReader(io.StringIO(table.out)))
    lines = mpu(*arguments, "--json").json["pairs"][0]["lines"]
    assert [[row[name] for name in ("metric", "better", "verdict")] for row in rows] == [
        [line[name] for name in ("metric", "better", "verdict")] for line in lines
    ]
    assert "note: no margin" in table.err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ("compare", "one", "other", "--output-format", "html"),
            "--output-format html: expected one of text, markdown, csv",
            None,
        ),
        (
            ("compare", "one", "other", "--output-format", "csv", "--json"),
            "--json excludes --output-format csv",
            "leave one",
        ),
        (
            ("eval", "one", "--forget", "x", "--format", "markdown"),
            "--format markdown: is about the record",
            "--output-format markdown",
        ),
        (
            ("eval", "one", "--forget", "x", "--relearn-rate", "2"),
            "--relearn-rate 2: expected a number between 0 and 1",
            None,
        ),
        (
            ("eval", "one", "--forget", "x", *["--relearn-rate", "1e-4"] * 2),
            "--relearn-rate: expected 1 to 8 different",
            "each rate",
        ),
    ],
)
def test_unknown_formats_are_refused(kept, mpu, monkeypatch, arguments, message, hint):
    """One line and a hint, before any model is read."""
    monkeypatch.chdir(kept)
    (kept / "x").write_text('{"question": "w1 ?", "answer": "w2 ."}\n')
    done = mpu(*arguments)
    assert done.code == 2
    assert message in done.err + done.out
    assert hint is None or hint in done.err + done.out


def test_inspect_shows_a_record_as_eval_does(kept, mpu):
    """Headline, arrows and every number; the JSON is the summary."""
    out = mpu("inspect", kept / "one").out
    for words in (
        "Forget rows: answer probability .100, lower is better.",
        "↓ lower",
        "relearned-2@3e-4",
        "3e-4, worst",
    ):
        assert words in out
    assert mpu("inspect", kept / "one", "--json").json == json.loads(
        (kept / "one" / "summary.json").read_text()
    )
