"""Which sets of an evaluation may share rows, and which may not."""

from __future__ import annotations

from itertools import permutations

import pytest

from mpu_cli.data.rows import Row
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.overlaps import overlaps
from mpu_cli.evaluation.questions import ROLES, Question, QuestionSet

SIDES = [{"forget", "knowledge", "verbatim"}, {"retain", "utility"}, {"holdout"}]


def question_set(role: str, *answers: str, **wordings: object):
    """A set of this role with a row for each answer."""
    questions = [
        Question(Row(f"{role}:{number}", prompt=f"Who is {answer}?", answer=answer), **wordings)
        for number, answer in enumerate(answers, 1)
    ]
    return QuestionSet.of("more" if role == "utility" else role, role, questions)


@pytest.mark.parametrize(("one", "two"), list(permutations(ROLES, 2)))
def test_every_pair_of_sets(one, two):
    """Sets that say opposite things of a row: a warning for a part, a refusal for all.

    Sets of one side may share rows.
    """
    opposite = not any({one, two} <= side for side in SIDES)
    part = overlaps([question_set(one, "a", "b"), question_set(two, "b", "c")], allow=False)
    assert len(part) == opposite
    if opposite:
        assert f"--{one}" in part[0] and f"--{two}" in part[0] and f"{one}:2 = {two}:1" in part[0]
        with pytest.raises(BadDataError, match="all of its rows"):
            overlaps([question_set(one, "a"), question_set(two, "A", "c")], allow=False)
    assert (
        len(overlaps([question_set(one, "a"), question_set(two, "a", "c")], allow=True)) == opposite
    )
    assert overlaps([question_set(one, "a"), question_set(two, "c")], allow=False) == []


def test_a_utility_set_is_named():
    """There may be several."""
    with pytest.raises(BadDataError, match="--utility more"):
        overlaps([question_set("forget", "a", "b"), question_set("utility", "a")], allow=False)


def test_questions_about_the_retain_set_are_kept():
    """MUSE's second knowledge set may share rows with the retain set, not with forgotten ones."""
    asked = QuestionSet.of(
        "retain_knowledge", "knowledge", list(question_set("retain", "a").questions)
    )
    assert overlaps([question_set("retain", "a"), asked], allow=False) == []
    with pytest.raises(BadDataError, match="--knowledge retain_knowledge"):
        overlaps([question_set("forget", "a", "b"), asked], allow=False)


def test_a_paraphrase_is_its_row():
    """A holdout made of paraphrases of the forget rows is no holdout."""
    forget = question_set(
        "forget", "a", paraphrased_question="Tell me who a is", paraphrased_answer="It is a"
    )
    for prompt, answer in (("Tell me who a is", "a"), ("Who is a?", "it is A")):
        holdout = QuestionSet.of(
            "holdout", "holdout", [Question(Row("holdout:1", prompt=prompt, answer=answer))]
        )
        with pytest.raises(
            BadDataError, match=r"--forget: all of its rows \(1\) are in --holdout too"
        ):
            overlaps([forget, holdout], allow=False)


def test_a_right_answer_among_the_wrong_ones_is_told():
    """A truth ratio over it would say nothing."""
    assert overlaps(
        [question_set("forget", "Mira", "Ann", perturbed_answers=("Bo", " mira"))], allow=False
    ) == ["--forget: the right answer is among the wrong ones in 1 rows, first in forget:1"]
