"""Columns of rows' numbers, from which the metrics of a model are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from mpu_cli.evaluation.statistics import Array, auc


class MissingInputError(Exception):
    """A metric needs an input that was not given; the metric is left out for this reason."""


def mean(values: Array) -> Array:
    """The mean over the last axis, of the rows that have a number; NaN if none has."""
    numbers = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(numbers, values, 0.0).sum(axis=-1) / numbers.sum(axis=-1))


@dataclass(frozen=True, slots=True)
class Columns:
    """Numbers of rows by (set, row metric), each (n,), and those of a retain record if given."""

    values: Mapping[tuple[str, str], Array]
    roles: Mapping[str, str]
    """Role by set."""
    choices: frozenset[str] = frozenset()
    """The sets of multiple-choice questions."""
    retain_record: Columns | None = None
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why a column, or the numbers of some of its rows, are missing."""
    condition: str = ""
    """The condition of the robustness check to read columns of; "" = the model itself."""
    whose: str = ""
    """For messages, whose rows these are if not the model's: "the retain record"."""

    def under(self, condition: str) -> Columns:
        """The columns under a condition, in the retain record too."""
        return replace(
            self,
            condition=condition,
            retain_record=self.retain_record and self.retain_record.under(condition),
        )

    def sets(self, *roles: str) -> list[str]:
        """Names of the sets that have one of these roles."""
        return [name for name, role in self.roles.items() if role in roles]

    def of(self, set_name: str, metric: str) -> Array:
        """One column with a number for every row, (n,).

        Raises:
            MissingInputError: the set was not given, or lacks the column or some of its numbers.
        """
        return self.values[self._key(set_name, metric)]

    def mean(self, set_name: str, metric: str) -> Array:
        """The mean of a column; rows that were left out for a recorded reason do not count.

        Raises:
            MissingInputError: as `of`, where no reason is recorded.
        """
        return self.average(self._key(set_name, metric, gaps=True))

    def area(self, members: str, others: str, metric: str) -> Array:
        """The chance that a row of one set has a lower number than a row of another; ties half.

        Raises:
            MissingInputError: as `of`.
        """
        return self.area_between(self._key(members, metric), self._key(others, metric))

    def average(self, key: tuple[str, str]) -> Array:
        """The mean of a column over the rows that have a number; NaN if none has."""
        return mean(self.values[key])

    def area_between(self, members: tuple[str, str], others: tuple[str, str]) -> Array:
        """The area of one column against another, both without gaps."""
        return auc(self.values[members], self.values[others])

    def retained(self) -> Columns:
        """The columns of a model that never saw the forget set.

        Raises:
            MissingInputError: its record was not given.
        """
        if self.retain_record is None:
            raise MissingInputError("no --retain-record was given")
        return self.retain_record

    def _key(self, set_name: str, metric: str, *, gaps: bool = False) -> tuple[str, str]:
        if set_name not in self.roles:
            raise MissingInputError(
                f"{self.whose} has no {set_name} set"
                if self.whose
                else f"no {set_name} set was given"
            )
        place = f"{self.whose}: {set_name}" if self.whose else set_name
        name = f"{metric}@{self.condition}" if self.condition else metric
        column = self.values.get((set_name, name))
        if column is None:
            reason = (
                self.reasons.get((set_name, name)) or self.reasons.get(("", metric)) or f"no {name}"
            )
            if self.whose and self.condition:
                reason += " (evaluate it with the same --robustness, in mpu's own format)"
            raise MissingInputError(f"{place}: {reason}")
        if np.isnan(column).any() and not (gaps and (set_name, name) in self.reasons):
            raise MissingInputError(f"{place}: rows without {name}")
        return set_name, name
