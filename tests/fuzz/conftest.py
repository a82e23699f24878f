"""The table of counts at the end (`make fuzz`)."""

from __future__ import annotations

from collections import Counter


def pytest_terminal_summary(terminalreporter) -> None:
    """Inputs by target, from what the tests recorded."""
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            called = getattr(report, "when", "") == "call"
            for key, value in report.user_properties if called else ():
                if key == "fuzz":
                    counts[value[0]] += value[1]
    if counts:
        terminalreporter.section("fuzzing")
        for name, count in [*sorted(counts.items()), ("all", sum(counts.values()))]:
            terminalreporter.write_line(f"{name:<32}{count:>10}")
