"""The rows that a model is measured on.

A row, and the other ways to ask and to answer it that TOFU's files bring along.

A file is what `data.rows` reads. Three more keys are known, all optional:

    paraphrased_question   the question in other words
    paraphrased_answer     the right answer in other words
    perturbed_answer       wrong answers of the same form, a list (or one text)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from mpu_cli.data.rows import Row, Tell, ignore, read_scan
from mpu_cli.errors import BadDataError

PARAPHRASED_QUESTION, PARAPHRASED_ANSWER, PERTURBED_ANSWER = (
    "paraphrased_question",
    "paraphrased_answer",
    "perturbed_answer",
)

FORGET, RETAIN, HOLDOUT, UTILITY, KNOWLEDGE, VERBATIM = (
    "forget",
    "retain",
    "holdout",
    "utility",
    "knowledge",
    "verbatim",
)
"""What a set is given for."""
RETAIN_KNOWLEDGE = "retain_knowledge"
"""The name of a knowledge set whose questions are about the retain set: --knowledge retain_knowledge=FILE (MUSE has one)."""
ROLES = (FORGET, RETAIN, HOLDOUT, UTILITY, KNOWLEDGE, VERBATIM)


@dataclass(frozen=True, slots=True)
class Question:
    """One row with its other wordings."""

    row: Row
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()

    @property
    def answer_text(self) -> str:
        """The right answer of a question or a chat; of a plain text, all of it."""
        row = self.row
        return row.messages[-1].content if row.messages else (row.answer or row.text or "")

    def variants(self, name: str) -> tuple[Row, ...]:
        """The texts to measure under a name of `VARIANTS`.

        None where the row does not bring them.
        """
        if name == "answer":
            return (self.row,)
        if name == "paraphrased answer":
            return (
                ()
                if self.paraphrased_answer is None
                else (self.row.with_answer(self.paraphrased_answer),)
            )
        if name == "perturbed answers":
            return tuple(self.row.with_answer(answer) for answer in self.perturbed_answers)
        if name == "paraphrased question":
            return (
                ()
                if self.paraphrased_question is None
                else (_asked(self.row, self.paraphrased_question),)
            )
        raise ValueError(name)


VARIANTS = ("answer", "paraphrased answer", "perturbed answers", "paraphrased question")


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """One file of rows, and what it was given for."""

    name: str
    role: str
    questions: tuple[Question, ...]
    digest: str
    """SHA-256 over the rows' content, whatever the file's format.

    Records of other rows are not compared.
    """
    examples: tuple[Row, ...] = ()
    """Answered questions that stand before each of these (MUSE's few-shot prompt)."""

    @property
    def multiple_choice(self) -> bool:
        """Whether the wrong answers stand beside the right one itself, not beside a paraphrase (TOFU's real authors, world facts)."""
        return all(
            question.perturbed_answers and question.paraphrased_answer is None
            for question in self.questions
        )


def read_questions(
    name: str,
    role: str,
    location: str | Path,
    mapping: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    tell: Tell = ignore,
) -> QuestionSet:
    """Read all rows of a file with their other wordings.

    Raises:
        BadDataError: what `read_rows` refuses; another wording that is not text, or stands beside a
            plain text.
    """
    beside = {PARAPHRASED_QUESTION, PARAPHRASED_ANSWER, PERTURBED_ANSWER}
    scan = read_scan(location, mapping, delimiter=delimiter, tell=tell, beside=beside)
    return question_set(
        name,
        role,
        [_question(row, value) for row, value in zip(scan.rows, scan.values, strict=True)],
    )


def question_set(name: str, role: str, questions: list[Question]) -> QuestionSet:
    """A set of rows that are in memory."""
    digest = sha256()
    for each in questions:
        row = each.row
        content: list[Any] = [
            row.prompt,
            row.answer,
            [[turn.role, turn.content] for turn in row.messages],
            row.text,
        ]
        content += [
            each.paraphrased_question,
            each.paraphrased_answer,
            list(each.perturbed_answers),
        ]
        digest.update(json.dumps(content).encode() + b"\n")
    return QuestionSet(name, role, tuple(questions), digest.hexdigest())


def _question(row: Row, value: object) -> Question:
    if not isinstance(value, dict):  # a bare text
        return Question(row)
    wrong = _texts(row, value, PERTURBED_ANSWER)
    right, asked = (
        _texts(row, value, key)[:1] for key in (PARAPHRASED_ANSWER, PARAPHRASED_QUESTION)
    )
    if asked and row.messages and (len(row.messages) < 2 or row.messages[-2].role != "user"):
        raise BadDataError(
            f"{row.where}: {PARAPHRASED_QUESTION!r}, but no user asks just before the answer",
            "leave the key out",
        )
    return Question(row, asked[0] if asked else None, right[0] if right else None, wrong)


def _asked(row: Row, question: str) -> Row:
    """The row with another question, in a chat the last one."""
    if not row.messages:
        return replace(row, prompt=question)
    return replace(
        row,
        messages=(
            *row.messages[:-2],
            replace(row.messages[-2], content=question),
            row.messages[-1],
        ),
    )


def _texts(row: Row, value: dict[str, object], key: str) -> tuple[str, ...]:
    found = value.get(key)
    if found is None or found == "":
        return ()
    texts: tuple[object, ...] = tuple(found) if isinstance(found, list) else (found,)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadDataError(
            f"{row.where}: {key!r} must be a text or a list of texts, none empty",
            "mend the row, or leave the key out",
        )
    if row.text is not None:
        raise BadDataError(
            f"{row.where}: {key!r} beside a plain text, which has no answer",
            "give prompt and answer, or leave the key out",
        )
    return tuple(str(text) for text in texts)
