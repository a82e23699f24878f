"""`mpu audit … --report FILE.html`: the printed result as a page."""

from __future__ import annotations

import json

from pages import check_page


def test_a_handoff(mpu, finished_round, tmp_path):
    """Stated, measured, nearest attack; what other settings would give; the gate that failed."""
    r, out = finished_round, tmp_path / "page.html"
    paths = (r.handoff, "--secret", r.secret, "--model", r.model, "--base", r.base)
    options = ("--layers", 1, "--no-behaviour", "--report", out, "--fail-if", "all_copies<0.5")
    done = mpu("audit", "handoff", *paths, *options, "--json")
    assert done.code == 1
    text = out.read_text()
    check_page(text)
    rows = done.json["rows"]
    assert all(row["nearest"] in text and f"{row['stated']:.3g}" in text for row in rows)
    assert "Failed: --fail-if all_copies&lt;0.5" in text
    assert "κ 1, m 3, extrapolation" in text and "SmolLM2-135M" in text
    assert "yours, one copy" in text or "<svg" not in text
    again = mpu("audit", "handoff", *paths, *options)
    assert again.code == 3 and "page.html: exists" in again.err
    inside = mpu("audit", "handoff", *paths, "--report", r.secret / "page.html")
    assert inside.code == 2 and "is inside" in inside.err


def test_an_update(mpu, finished_round, tmp_path):
    """Areas with intervals and controls, and no row."""
    r, out = finished_round, tmp_path / "page.html"
    decoys = tmp_path / "decoys.jsonl"
    decoys.write_text(r.retain.read_text().replace("w5", "w6"))
    rows = ("--forget", r.forget, "--decoys", decoys, "--device", "cpu")
    done = mpu("audit", "update", r.update, r.handoff, *rows, "--report", out, "--json")
    assert done.code == 0, done.err
    text = out.read_text()
    check_page(text)
    for finding in done.json["findings"].values():
        assert finding["what"] in text
    answers = [json.loads(line)["answer"] for line in r.forget.read_text().splitlines()]
    assert not any(answer in text for answer in answers)


def test_a_trace(mpu, finished_round, tmp_path):
    """The copy that is named, and how sure it is; the client's name is shown as text."""
    r, out = finished_round, tmp_path / "page.html"
    done = mpu("audit", "trace", r.handoff / "copy-2", "--secret", r.secret, "--report", out)
    assert done.code == 0
    text = out.read_text()
    check_page(text)
    assert "copy-2" in text and "threshold" in text
