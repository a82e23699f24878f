"""Which steps have to be made, in which order, and when a step's outputs are no longer needed.

Everything here is by key, so that equal steps of a graph are one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

from mpu_cli.experiment.step import Graph, Step
from mpu_cli.experiment.store import ANSWER, Finished


@dataclass(frozen=True, slots=True)
class Work:
    """The steps of a graph by key, in the order of the graph, and what each reads."""

    steps: Mapping[str, Step]
    inputs: Mapping[str, frozenset[str]]
    """Keys of the steps whose outputs it reads; not of those of which it reads only the answer."""
    needs: Mapping[str, frozenset[str]]
    """Keys of all steps that must be done before."""

    @classmethod
    def of(cls, graph: Graph, keys: Mapping[str, str]) -> Work:
        """The work of a graph; `keys` has the keys of its steps by name."""
        steps: dict[str, Step] = {}
        inputs: dict[str, frozenset[str]] = {}
        needs: dict[str, frozenset[str]] = {}
        for name, step in graph.steps.items():
            if (key := keys[name]) in steps:
                continue
            steps[key] = step
            needs[key] = frozenset(keys[other] for other in step.needs())
            inputs[key] = frozenset(
                keys[result.step] for result in step.inputs() if result.path != ANSWER
            )
        return cls(steps, inputs, needs)

    def to_make(self, finished: Callable[[str], Finished | None]) -> frozenset[str]:
        """The steps that are not done, and those whose removed outputs they read."""
        states = {key: finished(key) for key in self.steps}
        make: set[str] = set()
        waiting = [key for key, state in states.items() if state is None]
        while waiting:
            if (key := waiting.pop()) in make:
                continue
            make.add(key)
            for other in self.inputs[key]:
                state = states[other]
                if state is None or state.is_reclaimed:
                    waiting.append(other)
        return frozenset(make)


class Schedule:
    """Hands out steps whose inputs are there, the newest first.

    So a chain of steps is finished before the next one begins, and few outputs lie on the disk at
    any time.
    """

    def __init__(self, work: Work, make: Iterable[str]) -> None:
        """`make` has the keys of the steps to make."""
        self._work = work
        self._left = set(make)
        self._order = {key: number for number, key in enumerate(work.steps)}
        self._sorter = TopologicalSorter(
            {key: work.needs[key] & self._left for key in work.steps if key in self._left}
        )
        self._sorter.prepare()
        self._ready: list[str] = []
        self._readers = self._count_readers()

    def _count_readers(self) -> dict[str, int]:
        readers = dict.fromkeys(self._work.steps, 0)
        for key in self._left:
            for other in self._work.inputs[key]:
                readers[other] += 1
        return readers

    def next(self) -> str | None:
        """The key of a step that can begin now; None if there is none."""
        new = sorted(self._sorter.get_ready(), key=self._order.__getitem__)
        self._ready = new + self._ready
        return self._ready.pop(0) if self._ready else None

    def done(self, key: str) -> list[str]:
        """Note that a step is done; the keys of the steps whose outputs nothing needs any more."""
        self._sorter.done(key)
        self._left.discard(key)
        for other in self._work.inputs[key]:
            self._readers[other] -= 1
        return [one for one in (*sorted(self._work.inputs[key]), key) if self.is_free(one)]

    def is_free(self, key: str) -> bool:
        """Whether a step's outputs can be removed: no step that is still to be made reads them."""
        is_made = key not in self._left
        return is_made and self._readers[key] == 0 and not self._work.steps[key].is_kept

    def depending_on(self, failed: Iterable[str]) -> frozenset[str]:
        """The steps that cannot be made because others failed, without these."""
        failed = frozenset(failed)
        lost = set(failed)
        while more := {k for k in self._left - lost if self._work.needs[k] & lost}:
            lost |= more
        return frozenset(lost) - failed
