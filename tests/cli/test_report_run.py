"""`mpu report OUT`: the page of a run, on tables whose laws are known."""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import pytest
from made_run import COPIES, METHODS, exponent, make_run
from pages import check_page


@pytest.fixture
def no_plots(monkeypatch) -> None:
    """Without matplotlib: drawing takes time, and the numbers are in the tables."""
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)


@pytest.fixture
def run(tmp_path) -> Path:
    """The directory of a run."""
    return make_run(tmp_path / "run")


def test_slopes_means_and_rounds_are_found_again(mpu, run, tmp_path):
    """The exponent of κ by method and m, means over seeds with intervals, and the plan."""
    out, csv_files = run / "page.html", tmp_path / "csv"  # the page may lie in the run's directory
    done = mpu("report", run, "--out", out, "--csv", csv_files, "--json")
    assert done.code == 0, done.err
    text = out.read_text()
    check_page(text)
    with (csv_files / "slopes.csv").open() as file:
        slopes = list(csv.DictReader(file))
    assert [(row["method"], row["setting"]) for row in slopes] == [
        (method, f"m {copies}") for method in METHODS for copies in COPIES
    ]
    for row in slopes:
        law = exponent(int(row["setting"].split()[1]))
        assert float(row["slope"]) == pytest.approx(law, abs=0.02)
        assert float(row["low"]) < float(row["slope"]) < float(row["high"])
    with (csv_files / "utility-npo.csv").open() as file:
        means = {(row["kind"], row["setting"]): row for row in csv.DictReader(file)}
    assert float(means["before", "before"]["forget"]) == 0.96
    noisy = means["mpu", "κ 0.1, m 3"]
    with (run / "runs.csv").open() as file:
        rows = [
            float(row["forget"])
            for row in csv.DictReader(file)
            if (row["method"], row["kappa"], row["copies"]) == ("NPO", "0.1", "3")
        ]
    assert float(noisy["forget"]) == pytest.approx(sum(rows) / len(rows))
    assert int(noisy["seeds"]) == len(rows) == 3
    assert float(noisy["forget_low"]) < float(noisy["forget"]) < float(noisy["forget_high"])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text  # the plan, as text
    assert "/home/somebody" not in text and "ef" * 32 in text
    assert {"rounds-forget-npo.csv", "leaks.csv"} <= {path.name for path in csv_files.iterdir()}


def test_a_part_of_a_plan_says_so(mpu, run, tmp_path, no_plots):
    """A run that is not complete has a page of what is done; runs.csv alone is enough."""
    provenance = json.loads((run / "provenance.json").read_text())
    (run / "provenance.json").write_text(json.dumps({**provenance, "complete": False}))
    assert mpu("report", run, "--out", tmp_path / "page.html").code == 0
    assert "Not all steps of the plan are done" in (tmp_path / "page.html").read_text()
    for name in ("provenance.json", "rounds.csv", "plan.yaml"):
        (run / name).unlink()
    assert mpu("report", run / "runs.csv", "--out", tmp_path / "alone.html").code == 0
    check_page((tmp_path / "alone.html").read_text())


def _cut(text: str) -> str:
    return text[:-3]


def _cut_row(text: str) -> str:
    return text.rsplit(",", 3)[0] + "\n"


def _no_rows(text: str) -> str:
    return text.partition("\n")[0] + "\n"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cut, "runs.csv: ends within a line"),
        (_cut_row, "cells, expected 22"),
        (_no_rows, "runs.csv: has no row"),
        (lambda text: "", "runs.csv: no column run"),
        (lambda text: text.replace("forget,", "forgotten,", 1), "runs.csv: no column forget"),
        (lambda text: text.replace("holdout,", "retain,", 1), "the column 'retain' occurs twice"),
        (lambda text: text.replace("0.96", "much", 1), "line 2: forget is 'much'"),
        (lambda text: text.replace("0.96", "nan", 1), "line 2: forget is 'nan'"),
        (lambda text: text.replace("0.96", "1e308", 1), "line 2: forget is '1e308'"),
        (lambda text: text.replace(",0.01,", ",-0.01,", 1), "kappa is -0.01, expected at least 0"),
        (lambda text: text.replace(",data,,,,,,2,", ",data,,,,,,1.5,", 1), "rounds is 1.5"),
        (lambda text: text.replace(",noise-free,", ",free,", 1), "line 3: kind is 'free'"),
        (lambda text: text.replace("before", '"before', 1), "runs.csv, line"),
        (lambda text: text + "\udcff", "not UTF-8"),
    ],
)
def test_a_table_that_is_not_what_mpu_run_wrote(mpu, run, tmp_path, change, words):
    """One line with the file, the line and the column; nothing is written."""
    path = run / "runs.csv"
    path.write_bytes(change(path.read_text()).encode(errors="surrogateescape"))
    done = mpu("report", run, "--out", tmp_path / "page.html")
    assert done.code == 3, done.out
    assert words in done.err
    assert len(done.err.strip().splitlines()) <= 3
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["runs.csv", "rounds.csv", "plan.yaml", "provenance.json"])
@pytest.mark.parametrize("kind", ["pipe", "device", "nothing"])
def test_a_file_that_never_ends(mpu, run, tmp_path, name, kind):
    """A pipe without a writer, a link to a device, a link to nothing: refused at once, by name."""
    path = run / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "nothing")
    done = mpu("report", run, "--out", tmp_path / "page.html")
    assert done.code == 3 and f"{name}: " in done.err
    assert ("no such file" if kind == "nothing" else "not a regular file") in done.err
    assert not (tmp_path / "page.html").exists()


def test_separators_inside_a_name_end_no_line(mpu, run, tmp_path, no_plots):
    """What Python takes for the end of a line, and CSV does not."""
    for name in ("runs.csv", "rounds.csv"):
        path = run / name
        path.write_text(path.read_text().replace("NPO", "a\u2028b\x85c\x0bd"))
    done = mpu("report", run, "--out", tmp_path / "page.html")
    assert done.code == 0, done.err
    assert "a\\u2028b\\x85c\\x0bd" in (tmp_path / "page.html").read_text()


def test_a_foreign_provenance(mpu, run, tmp_path):
    """JSON of another form, or none, is named."""
    for content in ("[]", "{", "[" * 100_000):
        (run / "provenance.json").write_text(content)
        done = mpu("report", run, "--out", tmp_path / "page.html")
        assert done.code == 3 and "provenance.json: not a JSON object" in done.err


def test_names_from_a_table_are_no_paths(mpu, run, tmp_path, no_plots):
    """A method called ../x writes nothing outside; methods with equal file names stay apart."""
    path = run / "runs.csv"
    path.write_text(path.read_text().replace("NPO", "../../x!").replace("GradDiff", "x?"))
    (run / "rounds.csv").unlink()
    done = mpu("report", run, "--out", tmp_path / "p.html", "--csv", tmp_path / "csv", "--json")
    assert done.code == 0
    files = {Path(name).name for name in done.json["csv"]}
    assert {"utility-x.csv", "utility-x-2.csv"} <= files
    assert {it.name for it in (tmp_path / "csv").iterdir() if it.suffix == ".csv"} == files
    assert sorted(it.name for it in tmp_path.iterdir()) == ["csv", "p.html", "run"]


def test_a_table_of_one_run(mpu, run, tmp_path):
    """The model before alone has a table and no empty plot; a single run needs no interval."""
    path = run / "runs.csv"
    for name in ("rounds.csv", "provenance.json", "plan.yaml"):
        (run / name).unlink()
    header, first, second, *_ = path.read_text().splitlines()
    for row, plots in ((first, 0), (second, 1)):
        path.write_text(f"{header}\n{row}\n")
        page = tmp_path / f"{plots}.html"
        done = mpu("report", run, "--out", page, "--json")
        assert done.code == 0, done.err
        assert done.json["plots"] == plots and "… " not in page.read_text()
        check_page(page.read_text())
    assert "model before" not in page.read_text()


def test_many_methods_and_a_huge_round_take_bounded_time(mpu, run, tmp_path, no_plots):
    """The first 24 methods have plots; rounds are those that are there."""
    path = run / "runs.csv"
    header, first, *_ = path.read_text().splitlines()
    row = path.read_text().splitlines()[-1]
    assert row.split(",")[2] == "GradDiff"
    many = [row.replace("GradDiff", f"method-{number}") for number in range(400)]
    path.write_text("\n".join([header, first, *many]) + "\n")
    rounds = run / "rounds.csv"
    lines = rounds.read_text().splitlines()
    cells = lines[-1].split(",")
    cells[lines[0].split(",").index("round")] = "1e90"
    rounds.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    assert mpu("report", run, "--out", tmp_path / "page.html").code == 0
    assert "Of 400 methods the first 24" in (tmp_path / "page.html").read_text()
