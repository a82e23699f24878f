"""What a metric is: a number for each row and their mean, or one number for the whole model made of such numbers.

A file of `metrics/` holds its metrics in `METRICS`; nothing else has to know of it. A row's number
is a pure function of what the model said of this row (`Evidence`); a model's number is a pure
function of means and areas of rows' numbers, which it asks `Columns` for:
`weighted.WeightedColumns` answers with many weightings of the rows at once, and so gives it an
interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpu_cli.evaluation.questions import FORGET, HOLDOUT, RETAIN, UTILITY, Question
from mpu_cli.evaluation.statistics import auc
from mpu_cli.evaluation.token_scores import TokenScores

Array = NDArray[np.float64]

QUESTIONS = (FORGET, RETAIN, UTILITY)
MEMBERSHIP = (FORGET, HOLDOUT)


class MissingInputError(Exception):
    """Something that a metric needs was not given.

    The metric is left out, and this is the reason.
    """


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of one row when a metric looks at it."""

    question: Question
    role: str
    scores: Mapping[str, tuple[TokenScores, ...]]
    """By variant (`questions.VARIANTS`); "answer" always has exactly one."""
    ended: bool = False
    """Whether the answer's last token ends the turn.

    The model's own mark, not a word of the answer.
    """
    generation: str | None = None
    """What the model writes after the question, or None if it was not asked to."""
    rest: str | None = None
    """Of a text that the model went on with.

    How the text itself goes on, as far as the model was let write.
    """
    reference: TokenScores | None = None
    """What another model says of the answer."""

    @property
    def answer(self) -> TokenScores:
        """Scores of the row's own answer, its end mark included."""
        return self.scores["answer"][0]

    @property
    def words(self) -> TokenScores:
        """Scores of the answer without its end mark (open-unlearning measures memorization and membership on these)."""
        return (
            self.answer.head(len(self.answer) - 1)
            if self.ended and len(self.answer) > 1
            else self.answer
        )

    @property
    def correct(self) -> TokenScores:
        """The paraphrased answer where there is one, else the answer.

        What TOFU compares wrong answers with.
        """
        return (self.scores.get("paraphrased answer") or self.scores["answer"])[0]

    @property
    def wrong(self) -> tuple[TokenScores, ...]:
        """The wrong answers.

        Raises:
            MissingInputError: the row has none.
        """
        found = self.scores.get("perturbed answers") or ()
        if not found:
            raise MissingInputError("rows without perturbed_answer")
        return found

    @property
    def text(self) -> str:
        """The right answer as text, or the whole plain text: what `answer` is the score of."""
        return self.question.answer_text

    @property
    def target(self) -> str:
        """What should have been written: the right answer, or how a plain text goes on."""
        return self.text if self.rest is None else self.rest

    @property
    def written(self) -> str:
        """What the model wrote.

        Raises:
            MissingInputError: it was not asked to.
        """
        if self.generation is None:
            raise MissingInputError("nothing was generated")
        return self.generation


def mean(values: Array) -> Array:
    """The mean over the last axis, of the rows that have a number (under some conditions not all do)."""
    numbers = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # a resample may hold no such row: then there is no mean
        return np.asarray(np.where(numbers, values, 0.0).sum(axis=-1) / numbers.sum(axis=-1))


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMetric:
    """A number for each row, and their mean for each set."""

    name: str
    about: str
    """One line: the formula."""
    source: str
    better: str
    """What a forgetful, useful model has on the forget set.

    "lower", "higher", or "–" where that depends.
    """
    better_kept: str = ""
    """The same on rows that should stay known; "" = the opposite."""
    roles: tuple[str, ...] = QUESTIONS
    item: Callable[[Evidence], float]
    """NaN leaves the row out, see `gap`."""
    variants: tuple[str, ...] = ("answer",)
    generates: bool = False
    form: str | None = None
    """Only sets of this form have it.

    "question" (there is something to ask), "text" (plain texts), or None for both.
    """
    shown: bool = True
    """Whether the mean is a result by itself, or only what model metrics are made of."""
    gap: str = ""
    """Why a row may be left out."""
    limits: tuple[float, float] = (0.0, 1.0)
    """Between which every row's number lies.

    What rows that were not seen could have, and so how wide an interval must be.
    """


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows' numbers by (set, row metric), each (n,), and another record's where one was given."""

    values: Mapping[tuple[str, str], Array]
    roles: Mapping[str, str]
    """By set."""
    choices: frozenset[str] = frozenset()
    """The sets of multiple-choice questions."""
    retain_record: Columns | None = None
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Why a column is missing, or some of its rows have no number."""
    condition: str = ""
    """The condition of a robustness check whose columns are meant, or "" for the model as it is."""
    whose: str = ""
    """For messages, where the rows are not those of the model itself: "the retain record"."""

    def under(self, condition: str) -> Columns:
        """The same under a condition.

        The record of the other model, too, so that like is compared with like.
        """
        return replace(
            self,
            condition=condition,
            retain_record=self.retain_record and self.retain_record.under(condition),
        )

    def sets(self, *roles: str) -> list[str]:
        """Names of the sets given for any of these."""
        return [name for name, role in self.roles.items() if role in roles]

    def of(self, set_name: str, metric: str) -> Array:
        """One column, a number for every row, (n,).

        Raises:
            MissingInputError: the set was not given, or it has no such numbers, or not for every
                row.
        """
        return self.values[self._key(set_name, metric)]

    def mean(self, set_name: str, metric: str) -> Array:
        """The mean of a column; rows that were left out for a reason that is told (an answer without a word) do not count.

        Raises:
            MissingInputError: as `of`, where no such reason is told.
        """
        return self.average(self._key(set_name, metric, gaps=True))

    def area(self, members: str, others: str, metric: str) -> Array:
        """The chance that a row of one set has a lower number than a row of another, ties half.

        Raises:
            MissingInputError: as `of`.
        """
        return self.area_between(self._key(members, metric), self._key(others, metric))

    def average(self, key: tuple[str, str]) -> Array:
        """The mean of a column, of the rows that have a number; NaN where none has."""
        return mean(self.values[key])

    def area_between(self, members: tuple[str, str], others: tuple[str, str]) -> Array:
        """The area of one column against another, both without gaps."""
        return auc(self.values[members], self.values[others])

    def _key(self, set_name: str, metric: str, *, gaps: bool = False) -> tuple[str, str]:
        where = f"{self.whose}: {set_name}" if self.whose else set_name
        if set_name not in self.roles:
            raise MissingInputError(
                f"{self.whose} has no {set_name} set"
                if self.whose
                else f"no {set_name} set was given"
            )
        name = f"{metric}@{self.condition}" if self.condition else metric
        column = self.values.get((set_name, name))
        if column is None:
            reason = (
                self.reasons.get((set_name, name)) or self.reasons.get(("", metric)) or f"no {name}"
            )
            if self.whose and self.condition:
                reason += " (evaluate it with the same --robustness, in mpu's own format)"
            raise MissingInputError(f"{where}: {reason}")
        if np.isnan(column).any() and not (gaps and (set_name, name) in self.reasons):
            raise MissingInputError(f"{where}: rows without {name}")
        return set_name, name

    def retained(self) -> Columns:
        """The record of a model that never saw the forget set.

        Raises:
            MissingInputError: it was not given.
        """
        if self.retain_record is None:
            raise MissingInputError("no --retain-record was given")
        return self.retain_record


@dataclass(frozen=True, slots=True)
class _Traced(Columns):
    """Columns that remember which of them were asked for."""

    asked: set[tuple[str, str]] = field(default_factory=set)

    def _key(self, set_name: str, metric: str, *, gaps: bool = False) -> tuple[str, str]:
        key = Columns._key(self, set_name, metric, gaps=gaps)
        self.asked.add(key)
        return key


def keys_used(columns: Columns, metric: ModelMetric) -> frozenset[tuple[str, str]]:
    """The columns, by (set, row metric), that a model metric is made of here.

    Raises:
        MissingInputError: one that it needs is missing.
    """
    traced = _Traced(**{each.name: getattr(columns, each.name) for each in fields(Columns)})
    metric.value(traced)
    return frozenset(traced.asked)


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMetric:
    """One number for the model, from columns of rows' numbers."""

    name: str
    about: str
    source: str
    better: str
    uses: tuple[str, ...]
    """The row metrics that it is made of."""
    value: Callable[[Columns], Any]
    """From means and areas, which may be arrays of many weightings of the rows.

    The result has their shape.
    """
    interval: bool = True
    """Whether it is made of means and areas alone, so that it has an interval.

    None has been found for the others.
    """


Metric = RowMetric | ModelMetric


def probability(scores: TokenScores) -> float:
    """exp(−mean loss): p(y | x)^(1/N)."""
    return math.exp(-scores.mean_loss)


def column(evidence: Sequence[Evidence], metric: RowMetric) -> Array:
    """A metric's number for every row, (n,); NaN where it leaves a row out.

    Raises:
        MissingInputError: it needs something that a row does not have, or leaves out every row.
    """
    numbers = np.array([metric.item(row) for row in evidence], dtype=np.float64)
    if np.isnan(numbers).all():
        raise MissingInputError(str(gaps(numbers, metric.gap)))
    return numbers


def gaps(numbers: Array, why: str) -> str | None:
    """How many rows have no number, and why; None where all have one."""
    missing = int(np.isnan(numbers).sum())
    return f"{missing} of {len(numbers)} rows: {why}" if missing else None
