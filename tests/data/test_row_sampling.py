"""Orders of rows: what a round, a handoff and a copy change about them."""

from __future__ import annotations

from collections import Counter

import pytest

from mpu_cli.data.batches import RowSampling, epoch_pairs
from mpu_cli.data.refusals import with_refusals
from mpu_cli.data.rows import Row

SAMPLINGS = {
    "first": RowSampling(),
    "round": RowSampling(6),
    "handoff": RowSampling(retain="a" * 32),
    "copy": RowSampling(copy="copy-1"),
    "independent": RowSampling(independent=True),
    "paper": RowSampling(3, "", "copy-2", independent=True),
}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize(("n_forget", "n_retain"), [(7, 5), (5, 23), (4, 4), (6, 0), (1, 1)])
def test_an_epoch_is_one_pass_over_the_forget_rows(name: str, n_forget: int, n_retain: int) -> None:
    """Every order has each forget row once, with a retain row if any, and is repeatable."""
    for epoch in range(4):
        pairs = epoch_pairs(3, epoch, n_forget, n_retain, SAMPLINGS[name])
        assert sorted(i for i, _ in pairs) == list(range(n_forget))
        assert all(j in range(n_retain) if n_retain else j is None for _, j in pairs)
        assert pairs == epoch_pairs(3, epoch, n_forget, n_retain, SAMPLINGS[name])


def test_samplings_differ() -> None:
    """No two of them see the rows in the same order; the first is what it always was."""
    orders = {
        name: tuple(epoch_pairs(3, 0, 9, 40, sampling)) for name, sampling in SAMPLINGS.items()
    }
    assert len(set(orders.values())) == len(orders)
    assert list(orders["first"]) == epoch_pairs(3, 0, 9, 40)
    # A handoff changes the retain rows only.
    assert [i for i, _ in orders["handoff"]] == [i for i, _ in orders["first"]]


@pytest.mark.parametrize(("rounds", "epochs"), [(10, 1), (2, 5), (3, 4)])
def test_rounds_go_on_where_the_last_ended(rounds: int, epochs: int) -> None:
    """Rounds of some epochs each are one run of all epochs.

    No retain row twice before all were seen once.
    """
    whole = [pair for epoch in range(rounds * epochs) for pair in epoch_pairs(1, epoch, 8, 100)]
    parts = [
        pair
        for r in range(rounds)
        for epoch in range(epochs)
        for pair in epoch_pairs(1, epoch, 8, 100, RowSampling(r * epochs))
    ]
    assert parts == whole
    seen = [j for _, j in parts]
    assert all(count == 1 for count in Counter(seen[: min(100, len(seen))]).values())


def test_handoffs_see_other_retain_rows() -> None:
    """Ten rounds of 8 rows out of 1,000 by handoff.

    77 of 80 are new ones (8 of 80 in the order of a first round).
    """
    seen = {
        j for r in range(10) for _, j in epoch_pairs(0, 0, 8, 1000, RowSampling(retain=f"{r:032x}"))
    }
    assert len(seen) >= 74
    assert len({j for _ in range(10) for _, j in epoch_pairs(0, 0, 8, 1000)}) == 8


def test_independent_rows_come_with_their_own_chance() -> None:
    """Independent rows are equally likely (chi square, 99 degrees), and some occur twice."""
    counts = Counter(
        j
        for epoch in range(1000)
        for _, j in epoch_pairs(5, epoch, 20, 100, RowSampling(independent=True))
    )
    assert sum((counts[j] - 200) ** 2 / 200 for j in range(100)) < 149  # p = .001
    assert any(
        len({j for _, j in epoch_pairs(5, epoch, 20, 100, RowSampling(independent=True))}) < 20
        for epoch in range(10)
    )


def test_independent_refusals() -> None:
    """Dealt, ten refusals to ten rows are all different.

    Drawn alone they are not, and a stream's name changes them.
    """
    rows = [Row(f"f:{number}", prompt="Q", answer="A") for number in range(10)]
    cards = [f"refusal {number}" for number in range(10)]
    assert len({row.alternate for row in with_refusals(rows, cards, 0)}) == 10
    drawn = [
        [row.alternate for row in with_refusals(rows, cards, f"0/epoch {epoch}", independent=True)]
        for epoch in range(5)
    ]
    assert all(len(set(each)) < 10 for each in drawn)
    assert len({tuple(each) for each in drawn}) == 5
