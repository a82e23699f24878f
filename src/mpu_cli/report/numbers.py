"""How a number is written, on a page and in a terminal."""

from __future__ import annotations


def number(value: float | None, *, signed: bool = False) -> str:
    """Four decimals, or three significant digits for a large or tiny number; a dash for NaN."""
    if value is None or value != value:
        return "–"
    sign = "+" if signed else ""
    return (
        f"{value:{sign}.4f}"
        if abs(value) < 1000 and (abs(value) >= 1e-4 or value == 0)
        else f"{value:{sign}.3g}"
    )


def interval(low: float | None, high: float | None) -> str:
    """An interval `low … high`, or a dash."""
    return f"{number(low)} … {number(high)}" if low is not None else "–"


def short(value: float | None) -> str:
    """Three significant digits; a dash for NaN."""
    return "–" if value is None or value != value else f"{value:.3g}"


def counted(count: int, word: str) -> str:
    """A number of things: "1 handoff", "2 handoffs"."""
    return f"{count:,} {word}{'s' * (count != 1)}"
