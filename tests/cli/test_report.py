"""`mpu report`: pages of evaluation records and of their comparison."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from pages import check_page
from rounds import quietly

from mpu_cli.report.plot import is_available

needs_plots = pytest.mark.skipif(not is_available(), reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def records(finished_round, tmp_path_factory) -> tuple[Path, Path]:
    """Records of a tiny model and of its base, with texts."""
    root = tmp_path_factory.mktemp("records")
    for name, model in (("before", finished_round.model), ("after", finished_round.base)):
        rows = ("--forget", finished_round.forget, "--retain", finished_round.retain)
        short = ("--max-new-tokens", 4, "--texts", "--device", "cpu")
        assert quietly(("eval", model, *rows, *short, "--record", root / name)) == 0
    return root / "before", root / "after"


@pytest.fixture
def own(records, tmp_path) -> Path:
    """A record that a test may break."""
    return Path(shutil.copytree(records[0], tmp_path / "own"))


@needs_plots
def test_a_record_becomes_evidence(mpu, records, tmp_path):
    """It has digests, numbers with intervals and versions, and no row; twice the same bytes."""
    before, _ = records
    out = tmp_path / "page.html"
    done = mpu("report", before, "--out", out, "--csv", tmp_path / "csv", "--json")
    assert done.code == 0, done.err
    text, summary = out.read_text(), json.loads((before / "summary.json").read_text())
    check_page(text)
    assert summary["model"]["digest"] in text
    assert all(info["digest"] in text for info in summary["sets"].values())
    assert f"torch {summary['made']['versions']['torch']}" in text
    assert "<svg" in text and done.json["plots"] == 1
    written = [json.loads(line) for line in (before / "items.jsonl").read_text().splitlines()]
    assert not any(item["written"] in text for item in written if len(item["written"]) > 4)
    numbers = (tmp_path / "csv" / "numbers.csv").read_text().splitlines()
    value = summary["values"]["forget"]["answer_probability"]
    row = f"forget,answer_probability,lower,{value['value']!r},{value['low']!r},{value['high']!r}"
    assert row in numbers
    assert numbers[0] == "set,metric,better,value,low,high"
    again = tmp_path / "again.html"
    assert mpu("report", before, "--out", again).code == 0
    assert again.read_bytes() == out.read_bytes()
    assert mpu("report", before, "--out", again, "--texts", "--force").code == 0
    assert "What the model wrote" in again.read_text()


def test_a_comparison_has_the_verdicts_of_compare(mpu, records, tmp_path):
    """The same numbers as `mpu compare`, for each pair, and both models' digests."""
    out, csv = tmp_path / "page.html", tmp_path / "csv"
    options = ("--margin", "0.05", "--resamples", "1000")
    assert mpu("report", *records, *options, "--out", out, "--csv", csv).code == 0
    text = out.read_text()
    check_page(text)
    compared = mpu("compare", *records, *options, "--json").json["pairs"][0]["lines"]
    lines = (csv / "comparison-1.csv").read_text().splitlines()
    assert len(lines) == len(compared) + 1
    assert lines[1].split(",")[4:7] == [
        repr(compared[0][name]) for name in ("first", "other", "difference")
    ]
    assert compared[0]["verdict"] in text
    for record in records:
        assert json.loads((record / "summary.json").read_text())["model"]["digest"] in text


def test_without_matplotlib_the_page_has_its_tables(mpu, records, tmp_path, monkeypatch):
    """A warning and the page name the extra."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)
    done = mpu("report", records[0], "--out", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert done.code == 0 and "mpu-cli[report]" in done.err
    assert "<svg" not in text and "mpu-cli[report]" in text
    check_page(text)


def test_foreign_text_is_shown_and_not_obeyed(mpu, own, tmp_path):
    """Names that are markup, escapes of terminals, or formulas of spreadsheets."""
    summary = json.loads((own / "summary.json").read_text())
    summary["model"]["name"] = "<script>alert(1)</script>\x1b[2J\u202e"
    summary["settings"]["='x'"] = '"><img src=x onerror=alert(1)>'
    summary["left_out"] = {"model": {'=cmd|"/c calc"!A0': "<b>bold</b>"}}
    (own / "summary.json").write_text(json.dumps(summary))
    out, csv = tmp_path / "page.html", tmp_path / "csv"
    assert mpu("report", own, "--out", out, "--csv", csv).code == 0
    text = out.read_text()
    found = check_page(text)
    assert not {"script", "img", "b"} & set(found.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J\\u202e" in text
    assert "\x1b" not in text
    assert "model =cmd" in (csv / "left-out.csv").read_text()


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("nothing", 3, "nothing: no such directory"),
        ("model", 3, "is a model directory, expected an evaluation record, a server's secret"),
        ("model", 3, "mpu eval MODEL --forget FILE --record DIR"),
        ("handoff", 3, "mpu audit handoff … --report FILE.html"),
        ("update", 3, "mpu audit update … --report FILE.html"),
        ("broken", 3, "summary.json: not valid JSON"),
        ("no summary", 3, "no summary"),
    ],
)
def test_a_path_of_another_kind(mpu, finished_round, tmp_path, name, code, words):
    """One line that names the path, and nothing is written."""
    path = getattr(finished_round, name, tmp_path / name)
    if name == "broken":
        path.mkdir()
        (path / "summary.json").write_text("{")
        (path / "items.jsonl").write_text("")
    if name == "no summary":
        path.mkdir()
        (path / "notes.txt").write_text("")
    done = mpu("report", path, "--out", tmp_path / "page.html")
    assert done.code == code
    assert words in done.err and "Traceback" not in done.err
    assert not (tmp_path / "page.html").exists()


def test_a_changed_number_is_found(mpu, own, tmp_path, leftovers):
    """The summary must follow from the rows: the page is evidence."""
    summary = json.loads((own / "summary.json").read_text())
    nan = float("nan")
    for value, words in (
        (0.123, "by the rows"),
        (nan, "by the rows"),
        ("low", "no number"),
        (10**400, "no number"),
    ):
        summary["values"]["forget"]["answer_probability"]["value"] = value
        (own / "summary.json").write_text(json.dumps(summary))
        done = mpu("report", own, "--out", tmp_path / "page.html")
        assert done.code == 3
        assert f"{own}: " in done.err and words in done.err
    assert not (tmp_path / "page.html").exists()
    assert leftovers() == []


def test_intervals_are_those_of_the_rows(mpu, own, tmp_path):
    """Bounds that somebody narrowed do not reach a page; what cannot be computed again is named."""
    assert mpu("report", own, "--out", tmp_path / "true.html").code == 0
    summary = json.loads((own / "summary.json").read_text())
    summary["values"]["forget"]["answer_probability"] |= {"low": 0.111, "high": float("nan")}
    (own / "summary.json").write_text(json.dumps(summary))
    assert mpu("report", own, "--out", tmp_path / "changed.html").code == 0
    assert (tmp_path / "changed.html").read_bytes() == (tmp_path / "true.html").read_bytes()
    summary["values"].setdefault("model", {})["forget_quality"] = {"value": 0.77}
    (own / "summary.json").write_text(json.dumps(summary))
    assert mpu("report", own, "--out", tmp_path / "page.html").code == 0
    assert "as the summary has it: model forget_quality." in (tmp_path / "page.html").read_text()


def test_targets_are_refused_before_anything_is_read(mpu, own, tmp_path):
    """An existing page, one inside the record, CSV files over the page; --force replaces a page."""
    out = tmp_path / "page.html"
    out.write_text("mine")
    assert "page.html: exists" in mpu("report", own, "--out", out).err
    assert out.read_text() == "mine"
    assert mpu("report", own, "--out", out, "--force").code == 0
    inside = mpu("report", own, "--out", own / "page.html")
    assert inside.code == 2 and "is inside" in inside.err
    both = mpu("report", own, "--out", tmp_path / "x" / "page.html", "--csv", tmp_path / "x")
    assert both.code == 2 and not (tmp_path / "x").exists()
    around = mpu("report", own, "--out", tmp_path / "y.html", "--csv", tmp_path)
    assert around.code in (2, 3) and not (tmp_path / "y.html").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--margin", "0.1"), "--margin needs two records or more"),
        (("--seed", "1"), "--seed needs two records or more"),
    ],
)
def test_options_of_comparisons_alone(mpu, own, tmp_path, options, words):
    """They are refused where they would have no effect."""
    done = mpu("report", own, *options, "--out", tmp_path / "page.html")
    assert done.code == 2 and words in done.err


def test_one_record_twice(mpu, own, tmp_path):
    """Nothing could differ."""
    done = mpu("report", own, own, "--out", tmp_path / "page.html")
    assert done.code == 2 and "twice" in done.err


def test_options_of_another_kind(mpu, own, finished_round, tmp_path):
    """What would have no effect is refused, and so are several paths of other kinds."""
    out = ("--out", tmp_path / "page.html")
    for paths, options, words in (
        ([own], ("--disclose",), "--disclose is for a secret directory"),
        ([own], ("--records", own), "--records is for a secret directory"),
        ([finished_round.secret], ("--texts",), "--texts is for evaluation records"),
        ([finished_round.secret], ("--margin", 1), "--margin is for evaluation records"),
        ([finished_round.secret, own], (), "several paths must all be evaluation records"),
    ):
        done = mpu("report", *paths, *options, *out)
        assert done.code == 2 and words in done.err, words
    assert not (tmp_path / "page.html").exists()


def test_another_tools_record(mpu, records, tmp_path):
    """open-unlearning's file has no digests and no intervals: they are named, and computed."""
    from mpu_cli.evaluation.records.open_unlearning import open_unlearning_files
    from mpu_cli.evaluation.records.read import read_record

    files = open_unlearning_files(read_record(records[0]), texts=False)
    path = tmp_path / "TOFU_EVAL.json"
    path.write_text(json.dumps(files[path.name]))
    for number, given in enumerate((path, tmp_path)):
        out = tmp_path / "pages" / f"{number}.html"
        assert mpu("report", given, "--out", out).code == (0 if given == path else 2)
    text = (tmp_path / "pages" / "0.html").read_text()
    check_page(text)
    assert "not in the record" in text and "forget answer_probability" in text
    refused = mpu("report", path, "--texts", "--out", tmp_path / "texts.html")
    assert refused.code == 3 and "holds no texts" in refused.err


def test_a_full_disk_leaves_neither_page_nor_numbers(mpu, own, small_disk, leftovers):
    """Both are written before either gets its name."""
    for name in ("csv", "page.html"):
        (small_disk / "more").write_bytes(bytes(4096 if name == "csv" else 0))
        done = mpu("report", own, "--out", small_disk / "page.html", "--csv", small_disk / "csv")
        assert done.code == 3 and "the disk is full" in done.err
    assert sorted(it.name for it in small_disk.iterdir()) == ["filler", "more"]
    assert leftovers() == []
