"""What `mpu run` shows while it works: a live table on a terminal, or else a line for each step."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.output import Output, size
from mpu_cli.cli.progress import duration
from mpu_cli.experiment.estimate import Forecast, History
from mpu_cli.experiment.step import Step
from mpu_cli.experiment.store import Finished
from mpu_cli.foreign_text import shown

if TYPE_CHECKING:
    from rich.live import Live

    from mpu_cli.experiment.run import Failure

_EVERY = 10.0
"""Seconds between two predictions of the time left."""
_SHOWN = 8
"""Running steps that the table names."""


class RunView:
    """Watches a run; prints one line for each step."""

    def __init__(
        self, output: Output, to_make: dict[str, Step], history: History, jobs: int
    ) -> None:
        """`to_make` has the steps to make by name; `history` knows how long steps take."""
        self._output, self._history, self._jobs = output, history, jobs
        self._left = to_make
        self.total, self.made, self.failures = len(to_make), 0, 0
        self.running: dict[str, float] = {}
        self._predicted: tuple[float, float | None] = (-_EVERY, None)

    def started(self, step: Step) -> None:
        """Note that a step began."""
        self.running[step.name] = time.monotonic()

    def done(self, step: Step, finished: Finished) -> None:
        """Print that a step is done."""
        self.running.pop(step.name, None)
        self._left.pop(step.name, None)
        self.made += 1
        self._history.add(finished)
        self.line(f"{self.made}/{self.total}  {step.name} ({finished.seconds:.1f} s{self.rest()})")

    def failed(self, step: Step, failure: Failure) -> None:
        """Print that a step failed."""
        self.running.pop(step.name, None)
        self._left.pop(step.name, None)
        self.failures += 1
        self._output.warn(f"{step.name}: {failure.why}; log: {failure.log}")

    def idle(self) -> None:
        """Nothing: lines appear when steps end."""

    def line(self, text: str) -> None:
        """Print a line."""
        self._output.note(text)

    def rest(self) -> str:
        """The time left in words; empty where it is not known."""
        seconds = self.seconds_left()
        return "" if seconds is None else f", about {duration(seconds)} left"

    def seconds_left(self) -> float | None:
        """Expected seconds to the end; None if no step of some kind is done yet."""
        now = time.monotonic()
        if now - self._predicted[0] >= _EVERY:
            expected = [self._history.seconds(step) for step in self._left.values()]
            known = [seconds for seconds in expected if seconds is not None]
            left = sum(known) / self._jobs if len(known) == len(expected) else None
            self._predicted = (now, left)
        since, left = self._predicted
        return None if left is None else max(0.0, left - (now - since))


class LiveRunView(RunView):
    """Shows one live table instead of lines."""

    live: Live

    def line(self, text: str) -> None:
        """Nothing: the table shows what was done last by what runs now."""

    def idle(self) -> None:
        """Draw the table again."""
        self.live.update(self.table())

    def table(self) -> Any:
        """Steps done, running and failed, and the time left."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        head = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
        for name in ("done", "running", "failed", "time left"):
            head.add_column(name)
        left = self.seconds_left()
        head.add_row(
            f"{self.made} of {self.total}",
            str(len(self.running)),
            str(self.failures),
            "unknown" if left is None else duration(left),
        )
        now = time.monotonic()
        steps = [
            Text(f"  {shown(name)}  {duration(now - began)}", no_wrap=True, overflow="ellipsis")
            for name, began in list(self.running.items())[:_SHOWN]
        ]
        if len(self.running) > _SHOWN:
            steps.append(Text(f"  and {len(self.running) - _SHOWN} more"))
        return Group(head, *steps)


@contextmanager
def watching(
    output: Output, to_make: dict[str, Step], history: History, jobs: int
) -> Iterator[RunView]:
    """The view for this terminal or pipe."""
    if output.quiet or not sys.stderr.isatty():
        yield RunView(output, to_make, history, jobs)
        return
    from rich.live import Live

    view = LiveRunView(output, to_make, history, jobs)
    with Live(view.table(), console=output.error_console, transient=True) as view.live:
        yield view


def forecast_facts(forecast: Forecast) -> dict[str, str]:
    """The lines of `--dry-run`: name and value."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in forecast.to_make.items())
    unknown = f"unknown: no {', '.join(forecast.unknown)} step is done yet"
    return {
        "steps": f"{forecast.steps:,}",
        "found done": f"{forecast.found:,}",
        "to do": kinds or "nothing",
        "disk": unknown if forecast.disk_bytes is None else f"at most {size(forecast.disk_bytes)}",
        "time left": unknown if forecast.seconds is None else duration(forecast.seconds),
    }
