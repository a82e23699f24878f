"""The optimizers' benchmark.

Its arithmetic, its journal, and both studies end to end on the demo's model.
"""

import json

import optimizer_studies
import pytest
from intervals import interval, read_at, shown
from journal import Journal
from optimizers import main, parse
from task import hold_out


def test_intervals_are_students():
    """Mean and half width of the 95 % t interval; one value has none."""
    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2 and found["half"] == pytest.approx(4.303 / 3**0.5)
    assert (
        interval([0.5])["half"] is None and shown(interval([0.5])) == "0.500" and shown(None) == "–"
    )
    assert shown(found, 1) == "2.0 ±2.5"


def test_a_curve_is_read_between_its_points():
    """At the first fall to the level, linearly.

    A level that the curve never reaches has no value.
    """
    curve = [(0.8, 0.9), (0.6, 0.88), (0.2, 0.6), (0.3, 0.5)]
    assert read_at(0.6, curve) == pytest.approx(0.88) and read_at(0.5, curve) == pytest.approx(0.81)
    assert read_at(0.1, curve) is None and read_at(0.9, curve) is None


def test_a_journal_goes_on_where_it_was_cut(tmp_path):
    """A result is measured once.

    A last line that was cut is measured again, and the lines before it are kept.
    """
    path, measured = tmp_path / "journal", []

    def measure():
        measured.append(1)
        return {"value": len(measured)}

    for _ in range(2):
        assert Journal(path).get({"a": 1, "b": "x"}, measure) == {"value": 1}
    assert Journal(path).get({"b": "y", "a": 1}, measure) == {"value": 2} and Journal(path).has(
        {"a": 1, "b": "y"}
    )
    path.write_bytes(path.read_bytes()[:-4])
    journal = Journal(path)
    assert journal.get({"b": "x", "a": 1}, measure) == {"value": 1} and not journal.has(
        {"a": 1, "b": "y"}
    )
    assert journal.get({"a": 1, "b": "y"}, measure) == {"value": 3} and Journal(path).has(
        {"a": 1, "b": "y"}
    )


def test_held_out_rows_are_not_trained_on(tmp_path):
    """Every row is in one of the two files.

    The held out ones are spread over the file; more than there are is refused.
    """
    rows = [f'{{"text": "row {number}\u2028"}}' for number in range(10)]
    (tmp_path / "rows").write_text("\n".join(rows), encoding="utf-8")
    kept, out = (
        path.read_text(encoding="utf-8").strip("\n").split("\n")
        for path in hold_out(tmp_path / "rows", 3, tmp_path)
    )
    assert sorted(kept + out) == rows and out == [rows[1], rows[5], rows[8]]
    with pytest.raises(SystemExit, match="--held-out 10"):
        hold_out(tmp_path / "rows", 10, tmp_path)


@pytest.mark.slow
def test_both_studies_run_and_are_not_run_twice(tmp_path, capsys, monkeypatch):
    """One rate, one seed, one copy: probabilities, costs and errors.

    The same command again only reads them.
    """
    monkeypatch.setattr(
        optimizer_studies, "SETTINGS", {"one copy": {"denoising": "harmonic", "copies": 1}}
    )
    command = [
        "optimizers.py",
        "--optimizers",
        "muon",
        "adamw",
        "--rates",
        "1",
        "--seeds",
        "1",
        "--levels",
        ".99",
        ".1",
        "--kappas",
        ".01",
        ".03",
        "--draws",
        "1",
        "--epochs",
        "1",
        "--held-out",
        "20",
        "--work",
        str(tmp_path),
        "--json",
    ]
    monkeypatch.setattr("sys.argv", command)
    main()
    first = capsys.readouterr()
    found = json.loads(first.out)
    before, runs = found["forgetting"]["before"], found["forgetting"]["runs"]
    assert before["forget"] > 0.9 and all(
        one["forget"]["mean"] < before["forget"] for one in runs["muon"].values()
    )
    at = found["forgetting"]["at"]
    assert (
        at["0.99"]["adamw"]["over reference"] in (None, pytest.approx(1))
        and at["0.1"]["muon"]["lost"] is None
    )
    row = found["error"]["muon"]["settings"]["one copy"]
    assert (
        0 < row["errors"][0] < row["errors"][1] < 1
        and row["slope"] > 0.5
        and found["error"]["muon"]["update"] > 0
    )
    assert "muon" in first.err
    monkeypatch.setattr("sys.argv", command[:-1])
    main()
    again = capsys.readouterr()
    assert "seed" not in again.err and "one copy" in again.out and "adamw's" in again.out
    assert {path.name for path in tmp_path.iterdir()} == {
        "optimizers.jsonl",
        "retain.jsonl",
        "unseen.jsonl",
    }


def test_an_unknown_optimizer_is_refused(capsys):
    """In --optimizers as in --centre."""
    for options in (["--optimizers", "adamv"], ["--centre", "adamv=1"]):
        with pytest.raises(SystemExit):
            parse(options)
        assert "adam-mini" in capsys.readouterr().err
