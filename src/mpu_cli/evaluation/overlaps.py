"""Rows that are in two sets of an evaluation that have opposite purposes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from mpu_cli.data.duplicates import normalised
from mpu_cli.data.overlap import RowSet, check_disjoint
from mpu_cli.evaluation.questions import (
    FORGET,
    HOLDOUT,
    KNOWLEDGE,
    RETAIN,
    RETAIN_KNOWLEDGE,
    UTILITY,
    VERBATIM,
    QuestionSet,
)

_SIDES = {
    FORGET: "forgotten",
    KNOWLEDGE: "forgotten",
    VERBATIM: "forgotten",
    RETAIN: "kept",
    UTILITY: "kept",
    HOLDOUT: "never seen",
}
"""Sets of one side may share rows: the forget set may have a question about a forgotten text."""
_WORDINGS = ("answer", "paraphrased answer", "paraphrased question")


def overlaps(sets: Sequence[QuestionSet], *, allow: bool) -> list[str]:
    """Warnings in the order of the sets; a paraphrase counts as its row.

    Raises:
        BadDataError: all rows of one set are in a set of another side, and `allow` is False.
    """
    rows = {question_set.name: _rows(question_set) for question_set in sets}
    warnings = [
        check_disjoint(rows[first.name], rows[other.name], allow=allow)
        for first, other in combinations(sets, 2)
        if _side(first) != _side(other)
    ]
    return [text for text in [*warnings, *map(_right_as_wrong, sets)] if text is not None]


def _rows(question_set: QuestionSet) -> RowSet:
    return RowSet(
        _option(question_set),
        [
            row
            for question in question_set.questions
            for name in _WORDINGS
            for row in question.variants(name)
        ],
    )


def _side(question_set: QuestionSet) -> str:
    return "kept" if question_set.name == RETAIN_KNOWLEDGE else _SIDES[question_set.role]


def _option(question_set: QuestionSet) -> str:
    name, role = question_set.name, question_set.role
    return f"--{role}" if name == role else f"--{role} {name}"


def _right_as_wrong(question_set: QuestionSet) -> str | None:
    """A warning if a right answer is among the wrong ones: truth ratio and choice mean nothing."""
    places = [
        question.row.where
        for question in question_set.questions
        if normalised(question.answer_text) in map(normalised, question.perturbed_answers)
    ]
    if not places:
        return None
    return (
        f"{_option(question_set)}: the right answer is among the wrong ones in {len(places)} rows,"
        f" first in {places[0]}"
    )
