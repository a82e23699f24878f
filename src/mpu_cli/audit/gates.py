"""Conditions over printed numbers that make an audit fail: `--fail-if 'one_copy<0.05'`.

A condition is NAME OPERATOR NUMBER. Several of them may be joined by `and` and `or`, where `and`
binds more tightly; there are no parentheses. Names are those of the audit's numbers, operators are
< <= > >= == !=. A condition that holds makes the command exit with 1, after it printed everything.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.option import option
from mpu_cli.registry import did_you_mean

FLAG = "--fail-if"
OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_INEQUALITY = re.compile(
    rf"\s*(?P<name>[A-Za-z_][\w.]*)\s*(?P<symbol>{'|'.join(OPERATORS)})\s*(?P<bound>{_NUMBER})\s*",
    re.ASCII,
)
_MOST_LETTERS = 1000


@dataclass(frozen=True, slots=True)
class Inequality:
    """NAME OPERATOR NUMBER."""

    name: str
    symbol: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Inequality | None:
        """Read one; None if the text is none, or its number is infinite: it would never hold."""
        match = _INEQUALITY.fullmatch(text)
        if match is None or not math.isfinite(float(match["bound"])):
            return None
        return cls(match["name"], match["symbol"], float(match["bound"]))

    def holds(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is true of the numbers."""
        return OPERATORS[self.symbol](numbers[self.name], self.bound)


@dataclass(frozen=True, slots=True)
class Gate:
    """One `--fail-if`."""

    text: str
    """As the user wrote it."""
    any_of: tuple[tuple[Inequality, ...], ...]
    """It holds if all comparisons of one of these hold."""

    @classmethod
    def parse(cls, text: str) -> Gate:
        """Read a condition.

        Raises:
            UsageError: it is not one.
        """
        any_of = []
        for alternative in re.split(r"\bor\b", text[:_MOST_LETTERS]):
            parts = re.split(r"\band\b", alternative)
            comparisons = [Inequality.parse(part) for part in parts]
            any_of.append(tuple(item for item in comparisons if item is not None))
            if len(text) > _MOST_LETTERS or len(any_of[-1]) < len(parts):
                raise UsageError(
                    f"{FLAG} {text}: expected NAME OPERATOR NUMBER, joined by and, or",
                    f"operators: {' '.join(OPERATORS)}; quote the condition, because a shell reads"
                    f" < and > as redirections: {FLAG} 'NAME<0.05'",
                )
        return cls(text, tuple(any_of))

    @property
    def names(self) -> tuple[str, ...]:
        """The numbers that it needs, each once, in its order."""
        return tuple(dict.fromkeys(item.name for every in self.any_of for item in every))

    def holds(self, numbers: Mapping[str, float]) -> bool:
        """Whether it is true of the numbers."""
        return any(all(item.holds(numbers) for item in every) for every in self.any_of)


def parse_gates(texts: Iterable[str]) -> tuple[Gate, ...]:
    """Read the conditions of all `--fail-if` of a command line.

    Raises:
        UsageError: one is not a condition.
    """
    return tuple(Gate.parse(text) for text in texts)


@dataclass(frozen=True, slots=True)
class GateSettings:
    """The option of every audit, and of `mpu eval`."""

    fail_if: tuple[Gate, ...] = option(
        (),
        "Exit with 1 if this condition on the printed numbers holds, for instance 'NAME<0.05'. May"
        " be repeated.",
        panel="Output",
        metavar="CONDITION",
        repeated=True,
        parse=parse_gates,
    )


def require_names(gates: Sequence[Gate], known: Collection[str]) -> None:
    """Refuse a condition on a number that the audit never prints, before it begins.

    Raises:
        UsageError: the hint names the nearest number.
    """
    for gate in gates:
        for name in gate.names:
            if name not in known:
                listed = f"the numbers are {', '.join(known)}"
                raise UsageError(
                    f"{FLAG} {gate.text}: there is no number {name}",
                    did_you_mean(name, known, listed),
                )


def check(gates: Sequence[Gate], numbers: Mapping[str, float | None]) -> list[str]:
    """Test every condition.

    Args:
        gates: the conditions.
        numbers: what was measured by name; None or NaN where this run measured nothing.

    Returns:
        One line for each condition that holds.

    Raises:
        UsageError: a condition needs a number that is unknown or was not measured.
    """
    require_names(gates, numbers.keys())
    measured = {
        name: value
        for name, value in numbers.items()
        if value is not None and not math.isnan(value)
    }
    lines = []
    for gate in gates:
        for name in gate.names:
            if name not in measured:
                raise UsageError(
                    f"{FLAG} {gate.text}: {name} was not measured in this run",
                    f"measured: {', '.join(measured) or 'nothing'}",
                )
        if gate.holds(measured):
            found = ", ".join(f"{name} is {measured[name]:.6g}" for name in gate.names)
            lines.append(f"{FLAG} {gate.text}: {found}")
    return lines


def failure(lines: Sequence[str]) -> CheckFailedError:
    """The error (exit 1) for the conditions that hold, of which there is at least one."""
    if len(lines) == 1:
        return CheckFailedError(lines[0])
    return CheckFailedError(f"{len(lines)} conditions of {FLAG} hold")
