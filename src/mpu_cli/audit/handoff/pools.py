"""Which copies are attacked together: each copy, each handoff, and groups of handoffs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations

from mpu_cli.audit.handoff.attacks._attack import CopyPool
from mpu_cli.audit.handoff.holding import Holding

MOST_GROUPS = 64
"""The largest number of groups of handoffs; of more, some are drawn."""


@dataclass(frozen=True, slots=True)
class HeldPool:
    """Copies that are attacked together."""

    label: str
    copies: tuple[int, ...]
    """Numbers of copies in the holding."""
    handoffs: tuple[int, ...]
    """Numbers of their handoffs, each once."""

    def seen(self, holding: Holding, rounds: Sequence[int]) -> CopyPool:
        """The pool as attacks see it; `rounds` has the round of each handoff of the holding."""
        handoffs = tuple(holding.copies[number].handoff for number in self.copies)
        return CopyPool(handoffs, holding.has_base, tuple(rounds[number] for number in handoffs))


def pools_of(holding: Holding, names: Sequence[str], seed: int) -> tuple[list[HeldPool], bool]:
    """All pools, and whether some groups of handoffs were left out.

    Args:
        holding: the copies.
        names: what to call the handoffs.
        seed: of the choice of groups if there are more than `MOST_GROUPS`.
    """
    pools = [
        HeldPool(copy.label, (number,), (copy.handoff,))
        for number, copy in enumerate(holding.copies)
    ]
    groups, left_out = _groups(len(holding.manifests), seed)
    for group in groups:
        copies = tuple(
            number for number, copy in enumerate(holding.copies) if copy.handoff in group
        )
        if len(copies) > 1:
            pools.append(HeldPool(_label(group, names), copies, group))
    return pools, left_out


def _groups(count: int, seed: int) -> tuple[list[tuple[int, ...]], bool]:
    """Groups of handoffs, small ones first; each handoff and all together are always among them."""
    if 2**count - 1 <= MOST_GROUPS:
        sizes = (combinations(range(count), size) for size in range(1, count + 1))
        return list(chain.from_iterable(sizes)), False
    draw = random.Random(seed)  # noqa: S311  which groups are tried is no secret
    groups = {(number,) for number in range(count)} | {tuple(range(count))}
    while len(groups) < MOST_GROUPS + count:
        groups.add(tuple(sorted(draw.sample(range(count), draw.randint(2, count - 1)))))
    return sorted(groups, key=lambda group: (len(group), group)), True


def _label(group: tuple[int, ...], names: Sequence[str]) -> str:
    if len(group) == len(names) and len(names) > 1:
        return f"all {len(names)} handoffs"
    return " + ".join(names[number] for number in group)
