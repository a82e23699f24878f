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
    shown: Callable[[Estimate], str],
) -> Sequence[str]:
    """A line of the answers."""
    told = shown(finding.estimate)
    return (f"({claim})", f"{plan}: {finding.setting}", told, f"**{finding.verdict}**")


def points(estimate: Estimate) -> str:
    """Mean and 95 % limits of percentages or points, with two decimals."""
    return _limits(estimate, lambda value: f"{value:.2f}")


def percent(estimate: Estimate) -> str:
    """`points` with its unit."""
    return f"{points(estimate)} %"


def ratio(estimate: Estimate) -> str:
    """Mean and 95 % limits of ratios, however small."""
    return _limits(estimate, short)


def log_ratio(estimate: Estimate) -> str:
    """The geometric mean of ratios and its 95 % limits, from a mean of logarithms."""
    return _limits(estimate, lambda value: short(math.exp(value)))


def _limits(estimate: Estimate, shown: Callable[[float], str]) -> str:
    low, high = estimate.interval()
    if not math.isfinite(low):
        return _true_minus(f"{shown(estimate.mean)} (one seed)")
    return _true_minus(f"{shown(estimate.mean)} ({shown(low)} … {shown(high)})")


def short(value: float) -> str:
    """Two decimals where large, two significant digits where small."""
    size = abs(value)
    return f"{value:.2f}" if size >= 0.1 else f"{value:.2g}" if size else "0"


def _true_minus(text: str) -> str:
    return text.replace("-", "−")


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """A table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return lines
