"""Orders drawn from a named stream: the same on every machine and in every version of Python."""

from __future__ import annotations

import random


def shuffled(count: int, stream: str) -> list[int]:
    """The numbers 0 … count − 1 in an order that depends on nothing but the arguments.

    No global generator is read or moved.
    """
    # Python promises that random() of a seeded generator never changes, but not shuffle(); so
    # Fisher–Yates is our own.
    generator = random.Random(stream)
    order = list(range(count))
    for last in range(count - 1, 0, -1):
        other = int(generator.random() * (last + 1))
        order[last], order[other] = order[other], order[last]
    return order


def drawn(count: int, below: int, stream: str) -> list[int]:
    """`count` numbers from 0 … below − 1, each drawn alone (so some come twice).

    Depends on nothing but the arguments.
    """
    generator = random.Random(stream)
    return [int(generator.random() * below) for _ in range(count)]
