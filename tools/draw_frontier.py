"""Draw docs/images/frontier.svg: what settings leave unknown, against the error that they cost.

The rows are those of `benchmarks/frontier.py`, kept in docs/measured. Run by `make docs/images`.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from statistics import median

from svg import document, text

ROOT = Path(__file__).parents[1]
MEASURED = {
    "SmolLM2-135M on TOFU rows": "frontier-smollm2.jsonl",
    "the demo's model": "frontier-demo.jsonl",
}
"""Titles and files of the panels."""
LEFT, TOP, SIDE, GAP = 70, 60, 330, 90
X_DECADES, Y_DECADES = (-8, 0), (-3, 1)
"""Exponents of ten at the ends of the axes."""
Row = dict[str, float]


def rows(name: str) -> dict[str, Row]:
    """Medians over the draws, by setting, of a file in docs/measured."""
    lines = (ROOT / "docs" / "measured" / name).read_text(encoding="utf-8").splitlines()
    measured = [json.loads(line) for line in lines]
    settings = dict.fromkeys(row["setting"] for row in measured if "all_copies" in row)
    return {
        setting: {
            key: median(row[key] for row in measured if row["setting"] == setting)
            for key in ("one_copy", "all_copies", "error")
        }
        for setting in settings
    }


def settings() -> list[str]:
    """Every setting once, in the order of the files; its place is its number in the picture."""
    return list(dict.fromkeys(name for file in MEASURED.values() for name in rows(file)))


class Panel:
    """One pair of logarithmic axes."""

    def __init__(self, x: float) -> None:
        self._x = x

    def place(self, left: float, error: float) -> tuple[float, float]:
        """Pixels of a point; what lies outside is moved to the edge."""
        across = _share(left, X_DECADES)
        up = _share(error, Y_DECADES)
        return self._x + SIDE * across, TOP + SIDE * (1 - up)

    def axes(self, title: str) -> list[str]:
        """The frame, its ticks and its words."""
        parts = [
            f'<rect class="box shared" x="{self._x}" y="{TOP}" width="{SIDE}" height="{SIDE}"/>',
            text(self._x + SIDE / 2, TOP - 14, title, "title"),
            text(self._x + SIDE / 2, TOP + SIDE + 38, "share of the task vector left unknown →"),
        ]
        for exponent in range(X_DECADES[0], X_DECADES[1] + 1, 2):
            x, _ = self.place(10**exponent, 1)
            parts.append(text(x, TOP + SIDE + 18, _tick(exponent)))
        for exponent in range(Y_DECADES[0], Y_DECADES[1] + 1):
            _, y = self.place(1, 10**exponent)
            parts.append(text(self._x - 8, y + 4, _tick(exponent), anchor="end"))
        return parts

    def points(self, number: int, row: Row) -> list[str]:
        """One setting: a ring for a holder of one copy, its number for a holder of all."""
        one, every = (self.place(row[key], row["error"]) for key in ("one_copy", "all_copies"))
        ends = f"M{every[0]:.1f} {every[1]:.1f} L{one[0]:.1f} {one[1]:.1f}"
        style = "marker-end: none; stroke-dasharray: 2 4"
        line = f'<path class="arrow" style="{style}" d="{ends}"/>'
        return [
            *([line] if math.dist(one, every) > 14 else []),
            f'<circle class="box page" cx="{one[0]:.1f}" cy="{one[1]:.1f}" r="4"/>',
            f'<circle class="box server" cx="{every[0]:.1f}" cy="{every[1]:.1f}" r="10"/>',
            text(every[0], every[1] + 4, str(number), "text"),
        ]


def _share(value: float, decades: tuple[int, int]) -> float:
    low, high = decades
    return min(1.0, max(0.0, (math.log10(max(value, 1e-99)) - low) / (high - low)))


def _tick(exponent: int) -> str:
    return f"{10.0**exponent:g}" if exponent > -4 else f"1e{exponent}"


def draw() -> str:
    """The whole picture."""
    names = settings()
    parts = []
    for number, (title, file) in enumerate(MEASURED.items()):
        panel = Panel(LEFT + number * (SIDE + GAP))
        parts += panel.axes(title)
        for name, row in rows(file).items():
            parts += panel.points(names.index(name) + 1, row)
    width = LEFT + len(MEASURED) * (SIDE + GAP) - GAP + 30
    below = TOP + SIDE + 64
    parts.append(
        text(
            LEFT,
            below,
            "Up: error of the update, relative to it. Number: a holder of all copies. Ring: a"
            " holder of one copy.",
            anchor="start",
        )
    )
    for number, name in enumerate(names):
        column, line = number % 3, number // 3
        x = LEFT + column * (width - LEFT - 20) / 3
        parts.append(text(x, below + 24 + 18 * line, f"{number + 1}  {name}", "text", "start"))
    height = below + 24 + 18 * math.ceil(len(names) / 3)
    return document(width, height, "What settings leave unknown, and the error they cost", parts)


if __name__ == "__main__":
    sys.stdout.write(draw())
