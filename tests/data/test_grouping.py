"""Grouping by length: the same rows in another order, less padding, one order for all copies."""

from __future__ import annotations

import functools
import operator
import random

from mpu_cli.data.batches import PairSampler, epoch_pairs
from mpu_cli.data.grouping import LengthGroupedSampler
from mpu_cli.data.templates import TokenizedRow


def rows(count: int, seed: int) -> list[TokenizedRow]:
    """Rows of 4 to 60 tokens."""
    rng = random.Random(seed)
    return [
        TokenizedRow((1,) * length, (1,) * length)
        for length in (rng.randrange(4, 60) for _ in range(count))
    ]


def order(sampler: PairSampler, epoch: int) -> list[tuple[int, int | None]]:
    """One epoch's pairs."""
    sampler.set_epoch(epoch)
    return list(sampler)


def padding(forget: list[TokenizedRow], pairs: list[tuple[int, int | None]], batch: int) -> int:
    """Tokens that are filled up."""
    lengths = [len(forget[i].input_ids) for i, _ in pairs]
    chunks = [lengths[first : first + batch] for first in range(0, len(lengths), batch)]
    return sum(max(chunk) * len(chunk) - sum(chunk) for chunk in chunks)


FORGET, RETAIN = rows(90, 1), rows(31, 2)


def test_an_epoch_is_still_one_pass_over_the_forget_set() -> None:
    """Every forget row once, and the retain rows that the epoch would have met anyway."""
    sampler = LengthGroupedSampler(3, FORGET, RETAIN, 8)
    for epoch in range(3):
        pairs, plain = order(sampler, epoch), epoch_pairs(3, epoch, 90, 31)
        assert sorted(i for i, _ in pairs) == list(range(90))
        assert sorted(j for _, j in pairs if j is not None) == sorted(
            j for _, j in plain if j is not None
        )
        assert len(sampler) == 90


def test_less_is_padded_and_length_does_not_follow_time() -> None:
    """A quarter of the padding at most.

    The longest batch is not always first or last; epochs differ.
    """
    sampler = LengthGroupedSampler(3, FORGET, None, 8)
    epochs = [order(sampler, epoch) for epoch in range(6)]
    for epoch, pairs in enumerate(epochs):
        assert padding(FORGET, pairs, 8) < padding(FORGET, epoch_pairs(3, epoch, 90, 0), 8) / 4
        assert all(j is None for _, j in pairs)
    longest = [
        max(range(90), key=lambda place, p=pairs: len(FORGET[p[place][0]].input_ids)) // 8
        for pairs in epochs
    ]
    assert len(set(longest)) > 2
    assert len({tuple(pairs) for pairs in epochs}) == 6


def test_the_same_for_every_copy() -> None:
    """Seed and lengths alone decide the order, whatever the global generator has done."""
    random.seed(5)
    first = order(LengthGroupedSampler(3, FORGET, RETAIN, 8), 2)
    random.seed(6)
    assert order(LengthGroupedSampler(3, list(FORGET), list(RETAIN), 8), 2) == first
    assert order(LengthGroupedSampler(4, FORGET, RETAIN, 8), 2) != first


def test_a_batch_that_is_not_full_stays_last() -> None:
    """10 rows in batches of 4.

    Whichever two rows are left over, neighbours in length share a batch.
    """
    few = [TokenizedRow((1,) * length, (1,) * length) for length in (9, 3, 7, 1, 5, 2, 8, 4, 10, 6)]
    lasts = set()
    for epoch in range(6):
        pairs = order(LengthGroupedSampler(0, few, None, 4), epoch)
        batches = [
            sorted(len(few[i].input_ids) for i, _ in pairs[first : first + 4])
            for first in (0, 4, 8)
        ]
        lasts.add(tuple(batches[2]))
        assert [len(batch) for batch in batches] == [4, 4, 2]
        assert functools.reduce(operator.iadd, sorted(batches), []) == list(range(1, 11))
    assert lasts == {(1, 2), (5, 6), (9, 10)}
