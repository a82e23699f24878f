"""How a model is asked to write about a set's rows.

After which prompt, how much, and where what it writes ends.

MUSE (arXiv 2407.06460) asks models that know no chat, and so its two sets are never rendered in a
chat template here:

    knowledge   examples as "Question: …\\nAnswer: …\\n\\n", then "Question: …\\nAnswer: "; at most
    32 tokens, cut at a blank line
                or another question
    verbatim    the text's beginning as it is; at most 128 tokens, compared with as many tokens of
    how the text goes on

Read in swj0419/muse_bench at fcd6651: metrics/knowmem.py, metrics/verbmem.py. Other sets are asked
as they were trained (`data.templates`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from mpu_cli.data.duplicates import normalised
from mpu_cli.data.rows import Row
from mpu_cli.documentation import page
from mpu_cli.errors import BadDataError, UsageError
from mpu_cli.evaluation.questions import KNOWLEDGE, VERBATIM, QuestionSet
from mpu_cli.evaluation.settings import EvalSettings

TEMPLATE, QUESTION, CONTINUATION = "template", "question", "continuation"
"""The model's own template, MUSE's question, or the row's prompt as it is."""
_PROMPTS = {KNOWLEDGE: QUESTION, VERBATIM: CONTINUATION}
_TOKENS, _KNOWLEDGE_TOKENS, _TEXT_TOKENS = 200, 32, 128
MUSE_STOPS = ("\n\n", "\nQuestion", "Question:")


@dataclass(frozen=True, slots=True)
class Asking:
    """Of one set."""

    prompt: str
    tokens: int
    """That may be written, and of a text that goes on as many are compared."""
    stops: tuple[str, ...] = ()
    """What is written ends before the first of these."""
    examples: tuple[Row, ...] = ()

    def text(self, row: Row) -> str | None:
        """What the model goes on with, as it is.

        None where the row is asked by the model's template, or is a plain text.
        """
        if row.text is not None or self.prompt == TEMPLATE:
            return None
        if self.prompt == CONTINUATION:
            return row.prompt
        return (
            "".join(f"Question: {one.prompt}\nAnswer: {one.answer}\n\n" for one in self.examples)
            + f"Question: {row.prompt}\nAnswer: "
        )

    def told(self, tokens: int) -> dict[str, Any]:
        """For a record; `tokens` is what the context left of the limit.

        Examples are told by their number and a digest.
        """
        content = json.dumps([[one.prompt, one.answer] for one in self.examples]).encode()
        examples = (
            {"examples": len(self.examples), "examples_digest": sha256(content).hexdigest()}
            if self.examples
            else {}
        )
        return {
            "prompt": self.prompt,
            "max_new_tokens": tokens,
            "stop": list(self.stops),
            **examples,
        }


def asking(each: QuestionSet, settings: EvalSettings) -> Asking:
    """How a set is asked, by what it was given for and what was set.

    Raises:
        BadDataError: a chat, or a plain text among questions, in a set that is asked as MUSE asks;
            plain texts among questions in any other set that is written about: they have other
            limits and ends.
    """
    prompt = _PROMPTS.get(each.role, TEMPLATE)
    rows = [question.row for question in each.questions]
    texts = any(row.text is not None for row in rows)
    for row in rows if prompt != TEMPLATE else ():
        if row.messages or (row.text is not None and prompt == QUESTION):
            raise BadDataError(
                f"{row.where}: a {'chat' if row.messages else 'plain text'} in the {each.name} set,"
                " which is asked as MUSE asks",
                (
                    "give question and answer; questions for a chat template go into --utility"
                    " NAME=FILE"
                    if prompt == QUESTION
                    else "give prompt and gt, or plain texts"
                ),
            )
    if (
        texts
        and prompt == TEMPLATE
        and settings.generate
        and not all(row.text is not None for row in rows)
    ):
        text = next(row for row in rows if row.text is not None)
        raise BadDataError(
            f"{text.where}: a plain text among the questions of the {each.name} set: the two are"
            " asked otherwise",
            "put the texts into a file of their own (--utility NAME=FILE), or give --no-generate",
        )
    usual = (
        _TEXT_TOKENS
        if texts or prompt == CONTINUATION
        else _KNOWLEDGE_TOKENS
        if prompt == QUESTION
        else _TOKENS
    )
    tokens = dict(settings.tokens_by_set).get(each.name) or settings.max_new_tokens or usual
    stops = (
        ()
        if texts or prompt == CONTINUATION
        else settings.stop or (MUSE_STOPS if prompt == QUESTION else ())
    )
    return Asking(prompt, tokens, stops, each.examples)


def describe(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What of one record's way of asking (`Asking.told`) is otherwise in another's."""
    ways = [way for way in {**one, **other} if one.get(way) != other.get(way)]
    return ", ".join(
        "other examples" if way == "examples_digest" else f"{way} {one.get(way)!r}" for way in ways
    )


def check_asking(sets: Sequence[QuestionSet], settings: EvalSettings) -> None:
    """Refuse, before a model is loaded, what cannot be asked.

    Raises:
        UsageError: a limit for a set that is not given, or --stop where no set is of questions.
        BadDataError: as `asking`.
    """
    names = [each.name for each in sets]
    for name, tokens in settings.tokens_by_set:
        if name not in names:
            raise UsageError(
                f"--max-new-tokens {name}={tokens}: no set is called {name}",
                f"the sets are {', '.join(names)}",
            )
    asked = [asking(each, settings) for each in sets]
    if settings.stop and not any(one.stops for one in asked):
        raise UsageError(
            "--stop: none of the sets has questions; a text that goes on ends at its limit",
            "leave --stop out",
        )


def with_examples(each: QuestionSet, examples: Sequence[Row]) -> QuestionSet:
    """The set with examples before each of its questions (`--few-shot`).

    Raises:
        UsageError: the set is not asked as MUSE asks.
        BadDataError: an example is no question and answer, or is itself asked, which would give its
            answer away.
    """
    if each.role != KNOWLEDGE:
        message = (
            f"--few-shot {each.name}=…: examples stand before the questions of a knowledge set only"
        )
        raise UsageError(message, f"see {page('evaluation')}")
    asked = {
        normalised(question.row.prompt or ""): question.row.where for question in each.questions
    }
    for one in examples:
        if one.prompt is None:
            raise BadDataError(
                f"{one.where}: an example is a question and its answer",
                "give each row question and answer",
            )
        if (where := asked.get(normalised(one.prompt))) is not None:
            raise BadDataError(
                f"{one.where}: this example is also asked ({where})",
                "its answer would be given away: leave it out",
            )
    return replace(each, examples=tuple(examples))
