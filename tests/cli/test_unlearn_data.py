"""The data options of `mpu unlearn`: other formats and names give the same update."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from rounds import FORGET, QUICK, RETAIN

DELTA = "copy-1/delta.safetensors"


@pytest.fixture
def unlearn(mpu, finished_round, tmp_path):
    """Run it with these options; return the outcome and the first copy's delta."""

    def run(name: str, *options: object):
        done = mpu("unlearn", finished_round.handoff, "--out", tmp_path / name, *QUICK, *options)
        delta = tmp_path / name / DELTA
        return done, delta.read_bytes() if delta.exists() else None

    return run


def test_a_csv_with_mapped_columns_gives_the_same_update(unlearn, finished_round, tmp_path):
    """--map reads instruction and output; the update is the same bit for bit."""
    for name, rows in (("forget.csv", FORGET), ("retain.csv", RETAIN)):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows(
                [
                    ("id", "output", "instruction"),
                    *((1, row["answer"], row["question"]) for row in rows),
                ]
            )
    mapped = ("--map", "prompt=instruction", "--map", "answer=output")
    done, delta = unlearn(
        "new", "--forget", tmp_path / "forget.csv", "--retain", tmp_path / "retain.csv", *mapped
    )
    assert done.code == 0, done.err
    assert delta == (finished_round.update / DELTA).read_bytes()
    # Negative control: columns the other way round are another update.
    swapped = ("--map", "prompt=output", "--map", "answer=instruction")
    done, delta = unlearn(
        "swapped",
        "--forget",
        tmp_path / "forget.csv",
        "--retain",
        tmp_path / "retain.csv",
        *swapped,
    )
    assert done.code == 0
    assert delta != (finished_round.update / DELTA).read_bytes()


def test_copies_of_two_mappings_do_not_make_an_update(mpu, finished_round, tmp_path):
    """The mapping is part of the recipe: --finish refuses copies that read a file differently."""
    both = tmp_path / "forget.jsonl"
    both.write_text("".join(json.dumps({**row, "other": row["answer"]}) + "\n" for row in FORGET))
    given = ("unlearn", finished_round.handoff, "--out", tmp_path / "new")
    data = (*QUICK, "--forget", both, "--retain", both, "--allow-overlap")
    assert mpu(*given, *data, "--copy", 1).code == 0
    assert mpu(*given, *data, "--copy", 2, "--map", "answer=other").code == 0
    done = mpu(*given, "--finish")
    assert done.code == 1
    assert "recipe" in done.err


def test_cut_or_split_rows_give_one_warning(unlearn, finished_round, tmp_path):
    """Once, not for each copy: the number of rows and the first one."""
    rows = [{"question": "w1 ?", "answer": "w2 " * 30}, *FORGET]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "retain.txt").write_text("w3 w4 " * 40)
    done, delta = unlearn(
        "new",
        "--forget",
        tmp_path / "forget.jsonl",
        "--retain",
        tmp_path / "retain.txt",
        "--max-length",
        16,
    )
    assert done.code == 0, done.err
    assert delta is not None
    assert (
        done.err.count("1 row is cut at 16 tokens (--max-length), the first is forget.jsonl:1") == 1
    )
    assert done.err.count("1 row is split into windows of 16 tokens, the first is retain.txt") == 1


def test_refusals_for_dpo(unlearn, finished_round, tmp_path):
    """Each forget row gets a refusal; the same seed gives the same update."""
    (tmp_path / "idontknow.txt").write_text("w50 w51\nw52 w53\nw54\n")
    data = ("--forget", finished_round.forget, "--retain", finished_round.retain, "--method", "DPO")
    done, _ = unlearn("none", *data)
    assert done.code == 2
    assert "--refusals" in done.err
    deltas = [
        unlearn(name, *data, "--refusals", tmp_path / "idontknow.txt")[1] for name in ("one", "two")
    ]
    assert deltas[0] is not None
    assert deltas[0] == deltas[1]
    (tmp_path / "idontknow.txt").write_text("w40\n")
    assert unlearn("other", *data, "--refusals", tmp_path / "idontknow.txt")[1] != deltas[0]


def test_an_alternate_column_is_required_in_the_forget_file_only(unlearn, finished_round, tmp_path):
    """--map alternate=… does not need that column in the retain file."""
    rows = [{**row, "wrong": ["w50", "w51"]} for row in FORGET]
    (tmp_path / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = (
        "--forget",
        tmp_path / "forget.jsonl",
        "--retain",
        finished_round.retain,
        "--method",
        "DPO",
    )
    done, delta = unlearn("new", *data, "--map", "alternate=wrong")
    assert done.code == 0, done.err
    assert delta is not None


def test_the_update_holds_nothing_of_the_mapping(unlearn, finished_round, tmp_path):
    """Neither a column's name nor a file's digest is in the update."""
    import hashlib

    path = tmp_path / "forget.jsonl"
    path.write_text(
        "".join(
            json.dumps({"zebraquestion": row["question"], "answer": row["answer"]}) + "\n"
            for row in FORGET
        )
    )
    done, _ = unlearn(
        "new", "--forget", path, "--retain", finished_round.retain, "--map", "prompt=question"
    )
    assert done.code == 3
    retain = shutil.copy(path, tmp_path / "retain.jsonl")
    done, _ = unlearn(
        "new",
        "--forget",
        path,
        "--retain",
        retain,
        "--map",
        "prompt=zebraquestion",
        "--allow-overlap",
    )
    assert done.code == 0, done.err
    sent = b"".join(
        file.read_bytes() for file in Path(tmp_path / "new").rglob("*") if file.is_file()
    )
    assert b"zebra" not in sent
    assert hashlib.sha256(path.read_bytes()).hexdigest().encode() not in sent
