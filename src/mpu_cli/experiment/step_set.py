"""The steps of an experiment while it is put together: equal ones are kept once."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field, replace

from mpu_cli.errors import UsageError
from mpu_cli.experiment.step import Source, Step


@dataclass(frozen=True, slots=True)
class StepSet:
    """Steps by name."""

    most: int
    """Largest number of steps."""
    where: str
    """What messages call the plan."""
    steps: dict[str, Step] = field(default_factory=dict)
    _names: dict[object, str] = field(default_factory=dict)
    """The name of each step by its content."""

    def add(self, step: Step, name: str) -> str:
        """Add a step unless an equal one is there; the name of the one in the set.

        Raises:
            UsageError: there are too many.
        """
        content = _content(step)
        if content not in self._names:
            if len(self.steps) >= self.most:
                raise UsageError(
                    f"{self.where}: more than {self.most:,} steps",
                    "split the plan into several; steps that they share are run once",
                )
            free = free_name(name, self.steps)
            self._names[content] = free
            self.steps[free] = replace(step, name=free)
        return self._names[content]


def free_name(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it if it is taken."""
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name} ({number})"
    return free


def _content(step: Step) -> object:
    """What decides a step's key: two steps of equal content are one."""
    words = tuple(
        (word.prefix, word.digest) if isinstance(word, Source) else word for word in step.words
    )
    return (step.program, words, tuple(sorted(step.copied.items())), step.draw)
