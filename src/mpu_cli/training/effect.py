"""What training did to the answers.

Mean answer probability before the first step and after the last, on some of the rows.

It answers "did anything happen?" for the price of a few forward passes; `mpu eval` measures all
rows, and more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mpu_cli.data.templates import TokenizedRow

MOST_ROWS, FEWEST_ROWS = 64, 16
_SHARE = 0.1
"""Of the training's own work, where more than the fewest rows are measured."""
LITTLE = 0.1
"""A relative change of a probability that is worth speaking of."""


@dataclass(frozen=True, slots=True)
class Change:
    """Mean answer probability exp(−NLL / tokens), between 0 and 1, before and after.

    Over `rows` of `all_rows`.
    """

    before: float
    after: float
    rows: int
    all_rows: int

    @property
    def fall(self) -> float:
        """How much of the probability is gone, relative to what there was.

        Negative where it rose.
        """
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """On the forget rows, and on the retain rows where there are any."""

    forget: Change
    retain: Change | None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Effect:
        """From what `dataclasses.asdict` made of one."""
        forget, retain = (
            Change(**each) if each else None for each in (content["forget"], content["retain"])
        )
        assert forget is not None
        return cls(forget, retain)


class EffectSample:
    """The rows that are measured: the same ones before and after, and in every copy."""

    def __init__(
        self, forget: Sequence[TokenizedRow], retain: Sequence[TokenizedRow], trained_rows: int
    ) -> None:
        """`trained_rows` is how many rows go through the model in training, forwards and backwards."""
        # A backward pass is worth two forward ones; both sets are measured twice.
        count = min(MOST_ROWS, max(FEWEST_ROWS, int(_SHARE * 3 * trained_rows / 4)))
        self._sizes = len(forget), len(retain)
        self.forget, self.retain = evenly(forget, count), evenly(retain, count)

    def measure(
        self, probability: Callable[[Sequence[TokenizedRow]], float]
    ) -> tuple[float, float | None]:
        """`probability` of the forget rows, and of the retain rows where there are any."""
        return probability(self.forget), probability(self.retain) if self.retain else None

    def effect(
        self, before: tuple[float, float | None], after: tuple[float, float | None]
    ) -> Effect:
        """Of two measurements."""
        forget = Change(before[0], after[0], len(self.forget), self._sizes[0])
        if before[1] is None or after[1] is None:
            return Effect(forget, None)
        return Effect(forget, Change(before[1], after[1], len(self.retain), self._sizes[1]))


def evenly(rows: Sequence[TokenizedRow], count: int) -> list[TokenizedRow]:
    """At most `count` rows, spread evenly over all."""
    count = min(count, len(rows))
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """The mean over copies, which were all measured on the same rows."""
    retained = [effect.retain for effect in effects if effect.retain is not None]
    return Effect(
        _mean([effect.forget for effect in effects]),
        _mean(retained) if len(retained) == len(effects) else None,
    )


def _mean(changes: Sequence[Change]) -> Change:
    first = changes[0]
    before, after = (
        sum(values) / len(changes)
        for values in zip(*((one.before, one.after) for one in changes), strict=True)
    )
    return Change(before, after, first.rows, first.all_rows)
