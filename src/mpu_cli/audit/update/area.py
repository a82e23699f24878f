"""The area under a ROC curve with its 95 % interval: how well a score tells two sets apart."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.statistics import Array, Resampled
from mpu_cli.evaluation.weighted import both_ends, draw_weights

_DRAWS = 4000
_SCORE = "attack score"


@dataclass(frozen=True, slots=True)
class Area:
    """An area between 0 and 1; .5 = the score tells nothing."""

    value: float
    low: float
    high: float
    caught: float
    """The share of members whose score is above that of every other row."""

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.low, self.high

    @property
    def includes_chance(self) -> bool:
        """Whether the interval holds .5."""
        return self.low <= 0.5 <= self.high

    def content(self) -> dict[str, Any]:
        """The area as plain data."""
        return asdict(self)


def area(members: Array, others: Array, seed: int = 0) -> Area:
    """The chance that a member scores higher than another row, ties half.

    Args:
        members: (n,) scores, n ≥ 2.
        others: (h,) scores, h ≥ 2.
        seed: of the random weights of the rows, from which the interval comes
            (`evaluation.weighted`).
    """
    inside, outside = ("members", _SCORE), ("others", _SCORE)
    # `Columns` counts low values as members.
    view = Columns({inside: -members, outside: -others}, {"members": "", "others": ""})
    sizes = {"members": len(members), "others": len(others)}
    ends = [
        tuple(end.area_between(inside, outside) for end in both_ends(view, weights))
        for weights in draw_weights(sizes, seed, _DRAWS)
    ]
    low, high = (np.concatenate(end) for end in zip(*ends, strict=True))
    bounds = Resampled((low, high)).bounds()
    wide = (0.0, 1.0) if bounds is None else bounds.wide
    value = float(view.area_between(inside, outside))
    return Area(value, *wide, float((members > others.max()).mean()))
