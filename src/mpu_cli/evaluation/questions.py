"""The rows that a model is measured on, with other wordings of their questions and answers.

A file is read as `data.rows` reads it. Three more keys, all optional, are those of TOFU's files:

    paraphrased_question   the question in other words
    paraphrased_answer     the right answer in other words
    perturbed_answer       wrong answers of the same form, a list or one text
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from mpu_cli.data.rows import Row, Tell, ignore, read_scan
from mpu_cli.errors import BadDataError

PARAPHRASED_QUESTION = "paraphrased_question"
PARAPHRASED_ANSWER = "paraphrased_answer"
PERTURBED_ANSWER = "perturbed_answer"

ROLES = FORGET, RETAIN, HOLDOUT, UTILITY, KNOWLEDGE, VERBATIM = (
    "forget",
    "retain",
    "holdout",
    "utility",
    "knowledge",
    "verbatim",
)
"""What a set is given for."""
RETAIN_KNOWLEDGE = "retain_knowledge"
"""The name of a knowledge set about the retain set (MUSE has one): --knowledge NAME=FILE."""


@dataclass(frozen=True, slots=True)
class Question:
    """One row with its other wordings."""

    row: Row
    paraphrased_question: str | None = None
    paraphrased_answer: str | None = None
    perturbed_answers: tuple[str, ...] = ()

    @property
    def answer_text(self) -> str:
        """The right answer of a question or a chat; the whole of a plain text."""
        row = self.row
        return row.messages[-1].content if row.messages else (row.answer or row.text or "")

    def variants(self, name: str) -> tuple[Row, ...]:
        """The rows to score under a metric's name of a variant; empty if the file has none of them.

        The names are answer, paraphrased answer, perturbed answers and paraphrased question.
        """
        if name == "answer":
            return (self.row,)
        if name == "perturbed answers":
            return tuple(self.row.with_answer(answer) for answer in self.perturbed_answers)
        if name == "paraphrased answer":
            text = self.paraphrased_answer
            return () if text is None else (self.row.with_answer(text),)
        if name == "paraphrased question":
            text = self.paraphrased_question
            return () if text is None else (_with_question(self.row, text),)
        raise ValueError(name)


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """One file of rows, and what it was given for."""

    name: str
    role: str
    questions: tuple[Question, ...]
    digest: str
    """SHA-256 of the rows' content, in any file format: records of other rows are not compared."""
    examples: tuple[Row, ...] = ()
    """Answered questions to put before each question (MUSE's few-shot prompt)."""

    @classmethod
    def of(cls, name: str, role: str, questions: Sequence[Question]) -> QuestionSet:
        """A set of rows that are in memory."""
        digest = sha256()
        for question in questions:
            row = question.row
            content = [
                row.prompt,
                row.answer,
                [[turn.role, turn.content] for turn in row.messages],
                row.text,
                question.paraphrased_question,
                question.paraphrased_answer,
                list(question.perturbed_answers),
            ]
            digest.update(json.dumps(content).encode() + b"\n")
        return cls(name, role, tuple(questions), digest.hexdigest())

    @property
    def multiple_choice(self) -> bool:
        """Whether wrong answers stand beside the right one itself, not beside a paraphrase.

        So it is in TOFU's real authors and world facts.
        """
        return all(
            question.perturbed_answers and question.paraphrased_answer is None
            for question in self.questions
        )

    @property
    def has_texts(self) -> bool:
        """Whether a row is a plain text."""
        return any(question.row.text is not None for question in self.questions)


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
        BadDataError: `read_rows` refuses the file, another wording is not text, or belongs to a
            plain text.
    """
    wordings = {PARAPHRASED_QUESTION, PARAPHRASED_ANSWER, PERTURBED_ANSWER}
    scan = read_scan(location, mapping, delimiter=delimiter, tell=tell, beside=wordings)
    questions = [_question(row, value) for row, value in zip(scan.rows, scan.values, strict=True)]
    return QuestionSet.of(name, role, questions)


def _question(row: Row, value: object) -> Question:
    if not isinstance(value, dict):  # a bare text
        return Question(row)
    wrong = _texts(row, value, PERTURBED_ANSWER)
    right = _texts(row, value, PARAPHRASED_ANSWER)
    question = _texts(row, value, PARAPHRASED_QUESTION)
    if question and row.messages and (len(row.messages) < 2 or row.messages[-2].role != "user"):
        raise BadDataError(
            f"{row.where}: {PARAPHRASED_QUESTION!r}, but the turn before the answer is not a"
            " user's",
            "leave the key out",
        )
    return Question(row, next(iter(question), None), next(iter(right), None), wrong)


def _with_question(row: Row, question: str) -> Row:
    """The row with another question; in a chat, with another last question."""
    if not row.messages:
        return replace(row, prompt=question)
    *earlier, asked, answer = row.messages
    return replace(row, messages=(*earlier, replace(asked, content=question), answer))


def _texts(row: Row, value: dict[str, object], key: str) -> tuple[str, ...]:
    content = value.get(key)
    if content is None or content == "":
        return ()
    texts: tuple[object, ...] = tuple(content) if isinstance(content, list) else (content,)
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadDataError(
            f"{row.where}: {key!r} must be a text or a list of texts, none of them empty",
            "correct the row, or leave the key out",
        )
    if row.text is not None:
        raise BadDataError(
            f"{row.where}: {key!r} cannot belong to a plain text, which has no answer",
            "give prompt and answer, or leave the key out",
        )
    return tuple(str(text) for text in texts)
