"""`mpu unlearn --cover`: forget rows hide among cover rows, and both among nothing."""

from __future__ import annotations

import json

import pytest

ATTACKS = ("loss_change", "gradient_cosine")


def test_forget_rows_cannot_be_told_from_cover_rows(client, mpu, unlearned):
    """Both are told from decoys all the same, and the update says nothing of the cover."""
    update = unlearned("--cover", client.rows["cover"])
    sets = [
        word for name in ("forget", "decoys", "cover") for word in (f"--{name}", client.rows[name])
    ]
    found = mpu("audit", "update", update, client.handoff, *sets, "--json").findings
    for attack in ATTACKS:
        hidden, seen = (found[f"{key}:{attack}"]["auc"] for key in ("forget_cover", "both_decoys"))
        assert hidden["low"] < 0.5 < hidden["high"], attack
        assert seen["value"] > 0.9 and seen["low"] > 0.7, attack
    assert found["string_scan"]["found"] == []
    plain = mpu("audit", "update", client.update, client.handoff, *sets, "--json").findings
    assert plain["public_facts"]["fields"] == found["public_facts"]["fields"]
    # Negative control: rows that were not forgotten are no cover.
    assert plain["forget_cover:loss_change"]["auc"]["low"] > 0.5


def test_cover_rows_are_mixed_with_the_forget_rows(client, mpu, tmp_path):
    """The run says so, and takes steps for both."""
    rows = ("--forget", client.rows["forget"], "--cover", client.rows["cover"])
    options = ("--method", "GradAscent", "--epochs", "1", "--batch-size", "6")
    done = mpu("unlearn", client.handoff, *rows, *options, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.out
    assert json.loads(done.out)["copies"]["copy-1"]["steps"] == 4
    assert "cover: 12 rows are forgotten along with the 12 forget rows" in done.err


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        (None, "forget.jsonl:1: is also forget.jsonl:1, and 11 more", "take it out of --cover"),
        (
            {"text": "w1 w2 w3"},
            "cover.jsonl:1: is text, and the forget rows are prompt/answer",
            "cover rows hide only rows of their own form",
        ),
    ],
)
def test_rows_that_are_no_cover_are_refused(client, mpu, tmp_path, content, message, hint):
    """A row that must be forgotten itself, and a row of another form."""
    file = client.rows["forget"]
    if content is not None:
        file = tmp_path / "cover.jsonl"
        file.write_text(json.dumps(content) + "\n")
    options = ("--forget", client.rows["forget"], "--cover", file, "--method", "GradAscent")
    done = mpu("unlearn", client.handoff, *options, "--out", tmp_path / "out")
    assert (done.code, done.out) == (3, "")
    assert message in done.err and hint in done.err
    assert "forgotten along" not in done.err
    assert not (tmp_path / "out").exists()


def test_alternate_answers_are_needed_for_cover_rows_too(client, mpu, tmp_path):
    """The forget file has them, so the hint names the cover file."""
    forget = tmp_path / "forget.jsonl"
    rows = [json.loads(line) for line in client.rows["forget"].read_text().splitlines()]
    forget.write_text("".join(json.dumps({**row, "alternate": "w1"}) + "\n" for row in rows))
    options = ("--forget", forget, "--cover", client.rows["cover"], "--method", "DPO")
    options += ("--set", "alpha=0")
    done = mpu("unlearn", client.handoff, *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert "and of the cover file, an 'alternate' answer" in done.err
