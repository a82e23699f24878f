"""Scales, steps and tables of copies_as_smoothing.py: shared with its test, not a benchmark."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from paper_intervals import Estimate

Row = dict[str, Any]
"""One model: numbers by field, and the texts method and noise."""
TESTED = ("retain", "half", "relearned", "4-bit", "leak@8")
FIELDS = (
    "method",
    "seed",
    "kappa",
    "noise",
    "scale",
    "forget",
    *TESTED,
    "leak@1",
    "90 %",
)
FREE, ONE = "noise-free", "one copy"
MOST, WITHIN = 8.0, 0.02
"""The largest scale that is tried, and how near forgetting must be."""


def scale_for(forget_at: Callable[[float], float], target: float) -> float | None:
    """The scale of an update at which forgetting is within 2 % of the target; None: up to 8 none.

    Args:
        forget_at: the forget rows' answer probability at a scale.
        target: the noise-free run's.
    """
    low, high = 0.0, 1.0
    while forget_at(high) > target:
        low, high = high, 2 * high
        if high > MOST:
            return None
    for _ in range(20):
        if abs(forget_at(high) / target - 1) <= WITHIN / 4:
            break
        middle = (low + high) / 2
        low, high = (middle, high) if forget_at(middle) > target else (low, middle)
    return high if abs(forget_at(high) / target - 1) <= WITHIN else None


def steps_to(level: float, relearned: Mapping[str, Mapping[int, float]]) -> float:
    """The first step at which a curve reaches a level, linear between points; at most the last."""
    found = [float(max(step for curve in relearned.values() for step in curve))]
    for points in (sorted(curve.items()) for curve in relearned.values()):
        for (x, y), (next_x, next_y) in pairwise(points):
            if y < level <= next_y:
                found.append(x + (next_x - x) * (level - y) / (next_y - y))
    return min(found)


def read(path: Path) -> list[Row]:
    """The rows of a file; an empty cell is left out."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                key: value if key in ("method", "noise") else float(value)
                for key, value in row.items()
                if value
            }
            for row in csv.DictReader(file)
        ]


def write(path: Path, rows: Sequence[Row]) -> None:
    """The rows as a CSV file, sorted."""
    order = sorted(rows, key=lambda row: (row["method"], row["seed"], row["kappa"], row["noise"]))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(order)


def tables(rows: Sequence[Row]) -> str:
    """Both tables of every method."""
    parts = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        mine = [row for row in rows if row["method"] == method]
        noisy = [row for row in mine if row["kappa"]]
        parts += [
            f"{method}, differences to the noise-free run:",
            compared(mine, lambda _: (0.0, FREE)),
            f"{method}, differences to one copy:",
            compared(noisy, lambda kappa: (kappa, ONE)),
        ]
    return "\n\n".join(parts)


def compared(rows: Sequence[Row], reference: Callable[[float], tuple[float, str]]) -> str:
    """A Markdown table: means, and intervals of the paired differences to a reference's rows.

    Args:
        rows: of one method.
        reference: κ and noise of the rows to compare those of a κ with.
    """
    cells = list(dict.fromkeys((float(row["kappa"]), str(row["noise"])) for row in rows))
    by = {(row["kappa"], row["noise"], row["seed"]): row for row in rows if "scale" in row}
    seeds = list(dict.fromkeys(row["seed"] for row in rows))
    against = [cell for cell in cells if cell != reference(cell[0])]
    tests = len(against) * len(TESTED)
    lines = [["noise", "κ", "scale", "forget", *TESTED, "90 %"]]
    lines.append(["---"] * len(lines[0]))
    for kappa, noise in cells:
        found = [by[kappa, noise, seed] for seed in seeds if (kappa, noise, seed) in by]
        line = [noise, f"{kappa:g}"]
        tried = sum((row["kappa"], row["noise"]) == (kappa, noise) for row in rows)
        if len(found) < tried:
            line[0] += f" (not reached in {tried - len(found)} of {tried})"
        for key in ("scale", "forget", *TESTED):
            text = f"{fmean(row[key] for row in found):.3f}" if found else "–"
            others = [by.get((*reference(kappa), row["seed"])) for row in found]
            pairs = [(row, other) for row, other in zip(found, others, strict=True) if other]
            if pairs and key in TESTED and (kappa, noise) in against:
                text += f" {_interval([a[key] - b[key] for a, b in pairs], tests)}"
            line.append(text)
        lines.append([*line, f"{sum(row['90 %'] for row in found):.0f} of {len(found)}"])
    return (
        "\n".join(f"| {' | '.join(line)} |" for line in lines)
        + f"\n\n{len(seeds)} seeds; {tests} differences"
    )


def _interval(differences: Sequence[float], tests: int) -> str:
    estimate = Estimate.of(differences)
    (low, high), (least, most) = (estimate.interval(0.95, number) for number in (1, tests))
    return f"({low:+.3f}, {high:+.3f})" + "*" * (least > 0 or most < 0)
