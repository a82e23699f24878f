"""TOFU and MUSE as they are distributed.

The files are not part of the project. MPU_TEST_DATA names their directory (tofu/, muse_news/);
without it these tests are skipped.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from mpu_cli.data.duplicates import duplicates, in_both
from mpu_cli.data.refusals import read_refusals, with_refusals
from mpu_cli.data.rows import read_rows

DATA = Path(os.environ.get("MPU_TEST_DATA", "/nonexistent"))
pytestmark = pytest.mark.skipif(
    not (DATA / "tofu" / "full.jsonl").exists(),
    reason="MPU_TEST_DATA names no directory with TOFU and MUSE",
)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tofu/full", 4000),
        ("tofu/forget10_perturbed", 400),
        ("tofu/retain_perturbed", 400),
        ("tofu/real_authors", 100),
        ("tofu/world_facts", 117),
        ("tofu/holdout10", 400),
        ("muse_news/knowmem_forget_qa", 100),
        ("muse_news/knowmem_retain2_qa", 100),
    ],
)
def test_files_as_distributed(name: str, count: int) -> None:
    """Every row is a question and its answer, and none is an alternate by itself."""
    rows = read_rows(DATA / f"{name}.jsonl")
    assert Counter((row.form, row.alternate) for row in rows) == {("prompt/answer", None): count}


def test_forget_and_retain_do_not_overlap() -> None:
    """TOFU's forget10 and its retain rows are different; forget10 is in the whole set."""
    forget, retain = (
        read_rows(DATA / "tofu" / f"{name}_perturbed.jsonl") for name in ("forget10", "retain")
    )
    assert in_both(forget, retain) == duplicates(forget) == ()
    assert len(in_both(forget, read_rows(DATA / "tofu" / "full.jsonl"))) == 400


def test_refusals_and_perturbed_answers() -> None:
    """A hundred refusals are dealt four times each over 400 rows.

    Wrong answers are alternates when asked for.
    """
    rows = read_rows(DATA / "tofu" / "forget10_perturbed.jsonl", {"alternate": "perturbed_answer"})
    assert rows[0].alternate == "Chen Jing-Li is the complete name of the writer."
    refusals = read_refusals(DATA / "tofu" / "idontknow.txt")
    assert len(refusals) == 100
    assert set(
        Counter(row.alternate for row in with_refusals(rows, refusals, seed=0)).values()
    ) == {4}
