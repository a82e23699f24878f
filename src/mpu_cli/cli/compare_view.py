"""The output of `mpu compare`: a sentence and about a dozen numbers per pair, or all numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from mpu_cli.cli.figures import CSV, arrow, comma_separated, grid, interval, not_shown, number

if TYPE_CHECKING:
    from mpu_cli.evaluation.compare import Comparison, Pair

_COLUMNS = ("difference", "low", "high", "margin", "verdict", "rows", "rows_needed")
_MOST_NAMED = 3


def compared(
    comparison: Comparison, form: str, *, every: bool
) -> tuple[list[RenderableType], list[str]]:
    """Return the comparison for a reader, and lines about hidden numbers and caveats.

    Args:
        comparison: the comparison.
        form: text, markdown or csv; CSV holds every number in full, and nothing else.
        every: show all numbers, not only the most important ones.
    """
    from mpu_cli.evaluation.key_numbers import key_numbers

    notes = [f"note: {note}" for note in comparison.notes]
    if form == CSV:
        return [_csv(comparison)], notes
    body: list[RenderableType] = []
    hidden = 0
    for pair in comparison.pairs:
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
    return body, [*not_shown(hidden), *notes]


def headline(pair: Pair) -> str:
    """How many numbers have each verdict, and the first ones that differ."""
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


def _csv(comparison: Comparison) -> str:
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
        for pair in comparison.pairs
        for line in pair.lines
    ]
    columns = ("first", "other", "set", "metric", "better", "value_of_first", "value_of_other")
    return comma_separated((*columns, *_COLUMNS), rows)
