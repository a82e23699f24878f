"""Random orders from a named stream, equal on every machine and in every version of Python."""

from __future__ import annotations

import random


def shuffled(count: int, stream: str) -> list[int]:
    """The numbers 0 … count − 1 in an order that depends on the arguments alone.

    No global generator is used.
    """
    # Python promises that random() of a seeded generator never changes, but not that shuffle()
    # does not, so Fisher–Yates is written out here.
    generator = random.Random(stream)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(generator.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def independent_numbers(count: int, below: int, stream: str) -> list[int]:
    """`count` independent random numbers from 0 … below − 1; the arguments alone decide them."""
    generator = random.Random(stream)
    return [int(generator.random() * below) for _ in range(count)]
