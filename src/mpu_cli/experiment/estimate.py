"""What is left to do, the disk it takes and how long it will be, from steps that are done already.

A step is expected to take as long as the median of the finished steps that are most like it: the
same cell with another seed, then the same command and method, then the same command.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from mpu_cli.experiment.schedule import Schedule, Work
from mpu_cli.experiment.step import Step
from mpu_cli.experiment.store import Finished, Store

_SEED = re.compile(r"\b(seed|draw)=\S+ ?")
_ROUND = re.compile(r" / round \d+")
_COPIES = re.compile(r"\bcopies=\S+")


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a plan still needs."""

    steps: int
    found: int
    """Steps that are done."""
    to_make: Mapping[str, int]
    """Number of steps by kind."""
    seconds: float | None
    """Wall-clock seconds of all steps to make; None where a kind of step is not known yet."""
    disk_bytes: int | None
    """Peak of what the outputs take, with those that are there; None where not known."""
    unknown: tuple[str, ...]
    """Kinds of which no step is done yet."""


@dataclass(slots=True)
class History:
    """Seconds and bytes of finished steps, by how they are like another step."""

    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _bytes: dict[str, list[float]] = field(default_factory=dict)
    _medians: dict[tuple[str, str], float] = field(default_factory=dict)

    @classmethod
    def of(cls, finished: Iterable[Finished]) -> History:
        """The history of some finished steps."""
        history = cls()
        for step in finished:
            history.add(step)
        return history

    def add(self, step: Finished) -> None:
        """Note one more finished step."""
        for group in _groups(step.name, step.kind):
            self._seconds.setdefault(group, []).append(step.seconds)
            self._bytes.setdefault(group, []).append(step.nbytes)
            for what in ("seconds", "bytes"):
                self._medians.pop((what, group), None)

    def seconds(self, step: Step) -> float | None:
        """Expected seconds of a step; None if no step of its kind is done."""
        return self._median("seconds", self._seconds, step)

    def nbytes(self, step: Step) -> float | None:
        """Expected bytes of its outputs."""
        return self._median("bytes", self._bytes, step)

    def _median(self, what: str, values: Mapping[str, list[float]], step: Step) -> float | None:
        for group in _groups(step.name, step.kind):
            if group in values:
                if (what, group) not in self._medians:
                    self._medians[what, group] = float(median(values[group]))
                return self._medians[what, group]
        return None


def forecast(work: Work, store: Store, jobs: int) -> Forecast:
    """What is left of a plan, if `jobs` steps run at a time."""
    states = {key: store.finished(key) for key in work.steps}
    make = work.to_make(states.get)
    history = History.of(store.all_finished())
    kinds: dict[str, int] = {}
    for key in sorted(make):
        kind = work.steps[key].kind
        kinds[kind] = kinds.get(kind, 0) + 1
    unknown = {work.steps[key].kind for key in make if history.seconds(work.steps[key]) is None}
    seconds, peak = (None, None) if unknown else _simulate(work, states, make, history, jobs)
    return Forecast(
        steps=len(work.steps),
        found=len(work.steps) - len(make),
        to_make=kinds,
        seconds=seconds,
        disk_bytes=peak,
        unknown=tuple(sorted(unknown)),
    )


def _simulate(
    work: Work,
    states: Mapping[str, Finished | None],
    make: frozenset[str],
    history: History,
    jobs: int,
) -> tuple[float, int]:
    """Seconds and the peak of the disk if every step takes what it is expected to take."""
    schedule = Schedule(work, make)
    sizes = {
        key: state.nbytes
        for key, state in states.items()
        if key not in make and state is not None and not state.is_reclaimed
    }
    now = peak = 0.0
    running: dict[str, float] = {}
    while True:
        while len(running) < jobs and (key := schedule.next()) is not None:
            running[key] = now + (history.seconds(work.steps[key]) or 0.0)
            sizes[key] = round(history.nbytes(work.steps[key]) or 0)
        peak = max(peak, sum(sizes.values()))
        if not running:
            return now, round(peak)
        key = min(running, key=running.__getitem__)
        now = running.pop(key)
        for free in schedule.done(key):
            sizes.pop(free, None)


def _groups(name: str, kind: str) -> list[str]:
    alike = _ROUND.sub("", _SEED.sub("", name))
    copies = _COPIES.search(name)
    method = name.split(" ", 1)[0]
    return [
        f"{kind} {alike}",
        f"{kind} {method} {copies.group() if copies else ''}",
        f"{kind} {method}",
        kind,
    ]
