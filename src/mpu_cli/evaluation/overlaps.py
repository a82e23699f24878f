"""Rows that are in two sets of an evaluation which say opposite things of them."""

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
"""Sets of one side may share rows: a question about a forgotten text may be in the forget set, too."""
_WORDINGS = ("answer", "paraphrased answer", "paraphrased question")


def overlaps(sets: Sequence[QuestionSet], *, allow: bool) -> list[str]:
    """Warnings, in order of the sets; a paraphrase counts as its row.

    Raises:
        BadDataError: all of one set is in a set that must have nothing in common with it, and
            `allow` is not given.
    """
    rows = {
        each.name: RowSet(
            _option(each),
            [
                row
                for question in each.questions
                for name in _WORDINGS
                for row in question.variants(name)
            ],
        )
        for each in sets
    }
    pairs = [(one, two) for one, two in combinations(sets, 2) if _side(one) != _side(two)]
    found = [check_disjoint(rows[one.name], rows[two.name], allow=allow) for one, two in pairs]
    return [text for text in [*found, *map(_right_as_wrong, sets)] if text is not None]


def _side(each: QuestionSet) -> str:
    return "kept" if each.name == RETAIN_KNOWLEDGE else _SIDES[each.role]


def _option(each: QuestionSet) -> str:
    return f"--{each.role}" if each.name == each.role else f"--{each.role} {each.name}"


def _right_as_wrong(each: QuestionSet) -> str | None:
    """Whether the right answer is among the wrong ones, which makes a truth ratio or a choice meaningless."""
    places = [
        question.row.where
        for question in each.questions
        if normalised(question.answer_text) in map(normalised, question.perturbed_answers)
    ]
    return (
        f"{_option(each)}: the right answer is among the wrong ones in {len(places)} rows, first in"
        f" {places[0]}"
        if places
        else None
    )
