"""What `mpu compare` prints: for each pair a sentence and about a dozen numbers, or all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from mpu_cli.cli.figures import CSV, arrow, comma_separated, grid, interval, number

if TYPE_CHECKING:
    from mpu_cli.evaluation.compare import Comparison, Pair

_COLUMNS = ("difference", "low", "high", "margin", "verdict", "rows", "rows_needed")
_MOST_NAMED = 3


def compared(
    found: Comparison, form: str, *, every: bool
) -> tuple[list[RenderableType], list[str]]:
    """The comparison for a reader, and a line each for what is not shown and what must be known.

    Args:
        found: the comparison.
        form: text, markdown or csv; CSV has every number, in full, and nothing else.
        every: all numbers, not only the most telling ones.
    """
    from mpu_cli.evaluation.key_numbers import key_numbers

    notes = [f"note: {note}" for note in found.notes]
    if form == CSV:
        return [_csv(found)], notes
    body: list[RenderableType] = []
    hidden = 0
    for pair in found.pairs:
        keys = [(line.owner, line.role, line.metric) for line in pair.lines]
        chosen = set(keys if every else key_numbers(keys))
        hidden += len(keys) - len(chosen)
        rows = [
            (
                f"{line.owner} {line.metric}",
                arrow(line.better),
                number(line.first),
                number(line.other),
                number(line.difference, signed=True),
                interval(line.low, line.high),
                "–" if line.margin is None else f"±{number(line.margin)}",
                line.verdict,
            )
            for line in pair.lines
            if (line.owner, line.role, line.metric) in chosen
        ]
        body += [headline(pair), ""]
        body += grid(
            form,
            ("", "better", pair.first, pair.other, "difference", "95 %", "margin", "verdict"),
            rows,
        )
    return body, [*([f"not shown  {hidden} more numbers: --all"] if hidden else []), *notes]


def headline(pair: Pair) -> str:
    """How many numbers have which verdict, and the first that differ."""
    by_verdict: dict[str, list[str]] = {}
    for line in pair.lines:
        by_verdict.setdefault(line.verdict, []).append(f"{line.owner} {line.metric}")
    parts = []
    for verdict, names in sorted(by_verdict.items(), key=lambda item: item[0] != "different"):
        if verdict == "different":
            more = len(names) - _MOST_NAMED
            named = ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"{len(names)} different ({named})")
        else:
            parts.append(f"{len(names)} {'without a verdict' if verdict == '–' else verdict}")
    return (
        f"{pair.other} against {pair.first}, {len(pair.lines)} numbers:"
        f" {', '.join(parts) or 'none in common'}."
    )


def _csv(found: Comparison) -> str:
    rows: list[tuple[Any, ...]] = [
        (
            pair.first,
            pair.other,
            line.owner,
            line.metric,
            line.better,
            line.first,
            line.other,
            *(getattr(line, name) for name in _COLUMNS),
        )
        for pair in found.pairs
        for line in pair.lines
    ]
    return comma_separated(
        (
            "first",
            "other",
            "set",
            "metric",
            "better",
            "value_of_first",
            "value_of_other",
            *_COLUMNS,
        ),
        rows,
    )
