"""A positive number by the size of the noise, as a record stores it."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

SIZES = tuple(10 ** (step / 6) for step in range(-18, 13))
"""Sizes of the noise at which a curve is measured: .001 to 100, six in a decade."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Points with ascending sizes; straight in log–log between them, level beyond them."""

    points: tuple[tuple[float, float], ...] = ()
    """(size of the noise, value); without any, the value is 1 everywhere."""

    @classmethod
    def of(cls, values: Sequence[float], worth: float) -> Curve:
        """The curve through one value for each of `SIZES`.

        Args:
            values: at most 1; larger ones count as 1.
            worth: if no value is below it, the curve is 1 everywhere.
        """
        if min(values) >= worth:
            return cls()
        points = [
            (float(f"{size:.4g}"), float(f"{min(value, 1.0):.4g}"))
            for size, value in zip(SIZES, values, strict=True)
        ]
        while len(points) > 1 and points[-1][1] == points[-2][1]:
            points.pop()
        while len(points) > 1 and points[0][1] == points[1][1]:
            points.pop(0)
        return cls(tuple(points))

    @classmethod
    def read(cls, content: Mapping[str, float]) -> Curve:
        """The curve of a record."""
        return cls(tuple(sorted((float(size), value) for size, value in content.items())))

    def content(self) -> dict[str, float]:
        """The curve as a record stores it."""
        return {f"{size:g}": value for size, value in self.points}

    def at(self, size: float) -> float:
        """The value for noise of this size."""
        if not self.points:
            return 1.0
        after = bisect(self.points, size, key=lambda point: point[0])
        if after in {0, len(self.points)}:
            return self.points[min(after, len(self.points) - 1)][1]
        (low, first), (high, last) = self.points[after - 1], self.points[after]
        part = log(size / low) / log(high / low)
        if not first or not last:
            return first + part * (last - first)
        return exp(log(first) + part * log(last / first))


LEVEL = Curve()
"""1 everywhere."""


def lowest(curves: Sequence[Curve]) -> Curve:
    """The smallest of the curves' values at each of their sizes."""
    curves = [curve for curve in curves if curve.points]
    if len(set(curves)) <= 1:
        return curves[0] if curves else LEVEL
    sizes = sorted({size for curve in curves for size, _ in curve.points})
    return Curve(tuple((size, min(curve.at(size) for curve in curves)) for size in sizes))
