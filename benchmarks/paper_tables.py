"""Numbers and tables of the paper's page as Markdown: shared, not a benchmark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from paper_findings import Finding
from paper_intervals import Estimate

Lines = list[str]


def summary_row(
    claim: str,
    plan: str,
    finding: Finding,
    unit: str,
    change: Callable[[float], float] = lambda value: value,
) -> Sequence[str]:
    told = limits(*finding.estimate.through(change))
    return (f"({claim})", f"{plan}: {finding.setting}", f"{told}{unit}", f"**{finding.verdict}**")


def interval(estimate: Estimate) -> str:
    return limits(*estimate.through(lambda value: value))


def limits(mean: float, low: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{short(mean)} (one seed)"
    return f"{short(mean)} ({short(low)} … {short(high)})"


def short(value: float) -> str:
    """Three significant digits where small, two decimals where large, with a true minus sign."""
    size = abs(value)
    text = f"{value:.2f}" if size >= 0.1 else f"{value:.2g}" if size else "0"
    return text.replace("-", "−")


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return lines
