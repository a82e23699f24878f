"""What a metric is: a number for each row and their mean, or one number for the whole model.

A file of `metrics/` lists its metrics in `METRICS`; nothing else has to name them. A row's number
is a pure function of the model's scores of this row (`Evidence`). A model's number is a pure
function of means and areas of rows' numbers, which it gets from `Columns`.
`weighted.WeightedColumns` returns them under many weightings of the rows at once, which gives the
number an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from mpu_cli.evaluation.columns import Columns, MissingInputError
from mpu_cli.evaluation.questions import FORGET, HOLDOUT, RETAIN, UTILITY, Question
from mpu_cli.evaluation.statistics import Array
from mpu_cli.evaluation.token_scores import TokenScores

QUESTIONS = (FORGET, RETAIN, UTILITY)
MEMBERSHIP = (FORGET, HOLDOUT)


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a metric knows about one row."""

    question: Question
    role: str
    scores: Mapping[str, tuple[TokenScores, ...]]
    """By variant (`Question.variants`); "answer" has exactly one."""
    ended: bool = False
    """Whether the answer's last token ends the turn: the model's own mark, not a word."""
    generation: str | None = None
    """What the model writes after the question; None if it was not asked to write."""
    rest: str | None = None
    """The text's own continuation, as long as the model's may be; None for a question."""
    reference: TokenScores | None = None
    """Another model's scores of the answer."""

    @property
    def answer(self) -> TokenScores:
        """Scores of the row's own answer, with its end mark."""
        return self.scores["answer"][0]

    @property
    def words(self) -> TokenScores:
        """Scores of the answer without its end mark.

        open-unlearning measures memorization and membership on these.
        """
        answer = self.answer
        return answer.head(len(answer) - 1) if self.ended and len(answer) > 1 else answer

    @property
    def correct(self) -> TokenScores:
        """Scores of the paraphrased answer if there is one, else of the answer.

        TOFU compares wrong answers with these.
        """
        return (self.scores.get("paraphrased answer") or self.scores["answer"])[0]

    @property
    def wrong(self) -> tuple[TokenScores, ...]:
        """Scores of the wrong answers.

        Raises:
            MissingInputError: the row has none.
        """
        scores = self.scores.get("perturbed answers") or ()
        if not scores:
            raise MissingInputError("rows without perturbed_answer")
        return scores

    @property
    def text(self) -> str:
        """The text that `answer` scores: the right answer, or the whole plain text."""
        return self.question.answer_text

    @property
    def target(self) -> str:
        """What the model should write: the right answer, or the continuation of a plain text."""
        return self.text if self.rest is None else self.rest

    @property
    def written(self) -> str:
        """What the model wrote.

        Raises:
            MissingInputError: it was not asked to write.
        """
        if self.generation is None:
            raise MissingInputError("nothing was generated")
        return self.generation


@dataclass(frozen=True, kw_only=True, slots=True)
class RowMetric:
    """A number for each row, and their mean for each set."""

    name: str
    about: str
    """The formula, in one line."""
    source: str
    better: str
    """The direction on the forget set of a model that forgot it and stayed useful.

    "lower" or "higher"; "–" where it depends.
    """
    better_kept: str = ""
    """The same on rows that should stay known; "" = the opposite."""
    roles: tuple[str, ...] = QUESTIONS
    item: Callable[[Evidence], float]
    """The row's number; NaN leaves the row out, for the reason in `gap`."""
    variants: tuple[str, ...] = ("answer",)
    generates: bool = False
    form: str | None = None
    """"question" = sets with questions only, "text" = sets of plain texts only, None = both."""
    shown: bool = True
    """Whether the mean is a result by itself, or only an input of model metrics."""
    gap: str = ""
    """Why a row may be left out."""
    limits: tuple[float, float] = (0.0, 1.0)
    """The range of a row's number.

    Rows that were not seen may have any number in it, which decides how wide an interval must be.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelMetric:
    """One number for the model, from columns of rows' numbers."""

    name: str
    about: str
    source: str
    better: str
    uses: tuple[str, ...]
    """The row metrics that it is computed from."""
    value: Callable[[Columns], Any]
    """From means and areas; these may be arrays of many weightings, and so is the result then."""
    interval: bool = True
    """Whether it is a function of means and areas alone, so that an interval can be computed."""


Metric = RowMetric | ModelMetric


@dataclass(frozen=True, slots=True)
class _TracedColumns(Columns):
    """Columns that record which of them are read."""

    asked: set[tuple[str, str]] = field(default_factory=set)

    def _key(self, set_name: str, metric: str, *, gaps: bool = False) -> tuple[str, str]:
        key = Columns._key(self, set_name, metric, gaps=gaps)
        self.asked.add(key)
        return key


def keys_used(columns: Columns, metric: ModelMetric) -> frozenset[tuple[str, str]]:
    """The columns, by (set, row metric), that a model metric is computed from.

    Raises:
        MissingInputError: a column that it needs is missing.
    """
    traced = _TracedColumns(*(getattr(columns, part.name) for part in fields(Columns)))
    metric.value(traced)
    return frozenset(traced.asked)


def probability(scores: TokenScores) -> float:
    """exp(−mean loss): p(y | x)^(1/N)."""
    return math.exp(-scores.mean_loss)


def column(evidence: Sequence[Evidence], metric: RowMetric) -> Array:
    """A metric's number for every row, (n,); NaN where it leaves a row out.

    Raises:
        MissingInputError: a row lacks an input that the metric needs, or every row is left out.
    """
    numbers = np.array([metric.item(row) for row in evidence], dtype=np.float64)
    if np.isnan(numbers).all():
        raise MissingInputError(str(gaps(numbers, metric.gap)))
    return numbers


def gaps(numbers: Array, why: str) -> str | None:
    """How many rows have no number, and why; None if all have one."""
    missing = int(np.isnan(numbers).sum())
    return f"{missing} of {len(numbers)} rows: {why}" if missing else None
