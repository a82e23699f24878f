r"""How a model is asked to write about a set's rows: the prompt, the limit and the stops.

MUSE (arXiv 2407.06460) evaluates models that know no chat format, so its two sets are never
rendered with a chat template here:

    knowledge   examples as "Question: …\nAnswer: …\n\n", then "Question: …\nAnswer: ";
                at most 32 tokens, which end at a blank line or at another question
    verbatim    the beginning of the text; at most 128 tokens, which are compared with
                as many tokens of the text's own continuation

Read in swj0419/muse_bench at fcd6651: metrics/knowmem.py, metrics/verbmem.py. Other sets are asked
with the prompts that they are trained with (`data.templates`).
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
"""The model's own template, MUSE's question, or the row's prompt without a template."""
MUSE_STOPS = ("\n\n", "\nQuestion", "Question:")
_PROMPTS = {KNOWLEDGE: QUESTION, VERBATIM: CONTINUATION}
_TOKENS = {TEMPLATE: 200, QUESTION: 32, CONTINUATION: 128}


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How the rows of one set are asked."""

    prompt: str
    tokens: int
    """The most tokens that the model may write; of a text, as many are compared."""
    stops: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    examples: tuple[Row, ...] = ()

    def text(self, row: Row) -> str | None:
        """The bare prompt; None for a plain text, or where the model's template is used."""
        if row.text is not None or self.prompt == TEMPLATE:
            return None
        if self.prompt == CONTINUATION:
            return row.prompt
        examples = (
            f"Question: {example.prompt}\nAnswer: {example.answer}\n\n" for example in self.examples
        )
        return "".join(examples) + f"Question: {row.prompt}\nAnswer: "

    def as_recorded(self, tokens: int) -> dict[str, Any]:
        """For a record, which holds a digest in place of the examples' text.

        Args:
            tokens: the limit that the model's context left.
        """
        recorded: dict[str, Any] = {
            "prompt": self.prompt,
            "max_new_tokens": tokens,
            "stop": list(self.stops),
        }
        if self.examples:
            content = [[example.prompt, example.answer] for example in self.examples]
            recorded["examples"] = len(self.examples)
            recorded["examples_digest"] = sha256(json.dumps(content).encode()).hexdigest()
        return recorded


def prompt_format(question_set: QuestionSet, settings: EvalSettings) -> PromptFormat:
    """Choose how a set is asked, by its role and the settings.

    Raises:
        BadDataError: a chat, or a plain text among questions, in a set with MUSE's prompts;
            or plain texts among the questions of another set that the model is to write about,
            since texts have other limits and ends than questions.
    """
    prompt = _PROMPTS.get(question_set.role, TEMPLATE)
    rows = [question.row for question in question_set.questions]
    if prompt != TEMPLATE:
        _require_muse_rows(question_set.name, prompt, rows)
    elif settings.generate and question_set.has_texts and any(row.text is None for row in rows):
        text = next(row for row in rows if row.text is not None)
        raise BadDataError(
            f"{text.where}: a plain text in the {question_set.name} set, which also has questions:"
            " the two need different prompts",
            "put the texts into a file of their own (--utility NAME=FILE), or give --no-generate",
        )
    continues = question_set.has_texts or prompt == CONTINUATION
    tokens = (
        dict(settings.tokens_by_set).get(question_set.name)
        or settings.max_new_tokens
        or _TOKENS[CONTINUATION if continues else prompt]
    )
    muse_stops = MUSE_STOPS if prompt == QUESTION else ()
    stops = () if continues else settings.stop or muse_stops
    return PromptFormat(prompt, tokens, stops, question_set.examples)


def _require_muse_rows(name: str, prompt: str, rows: Sequence[Row]) -> None:
    hint = (
        "give question and answer; questions for a chat template go into --utility NAME=FILE"
        if prompt == QUESTION
        else "give prompt and gt, or plain texts"
    )
    for row in rows:
        if row.messages or (row.text is not None and prompt == QUESTION):
            kind = "chat" if row.messages else "plain text"
            raise BadDataError(
                f"{row.where}: a {kind} in the {name} set, which uses MUSE's prompts", hint
            )


def describe_difference(recorded: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The parts of two records' prompt formats (`PromptFormat.as_recorded`) that differ."""
    keys = [key for key in {**recorded, **other} if recorded.get(key) != other.get(key)]
    return ", ".join(
        "other examples" if key == "examples_digest" else f"{key} {recorded.get(key)!r}"
        for key in keys
    )


def check_prompt_formats(sets: Sequence[QuestionSet], settings: EvalSettings) -> None:
    """Refuse, before a model is loaded, what cannot be asked.

    Raises:
        UsageError: a limit for a set that is not given, or --stop where no set has questions.
        BadDataError: as `prompt_format`.
    """
    names = [question_set.name for question_set in sets]
    for name, tokens in settings.tokens_by_set:
        if name not in names:
            raise UsageError(
                f"--max-new-tokens {name}={tokens}: no set is called {name}",
                f"the sets are {', '.join(names)}",
            )
    formats = [prompt_format(question_set, settings) for question_set in sets]
    if settings.stop and not any(chosen.stops for chosen in formats):
        raise UsageError(
            "--stop: none of the sets has questions, and the continuation of a text ends at its"
            " limit",
            "leave --stop out",
        )


def with_examples(question_set: QuestionSet, examples: Sequence[Row]) -> QuestionSet:
    """The set with examples before each of its questions (`--few-shot`).

    Raises:
        UsageError: the set does not use MUSE's prompts.
        BadDataError: an example is not a question and its answer, or is also a question of the set,
            so that its answer would be revealed.
    """
    if question_set.role != KNOWLEDGE:
        raise UsageError(
            f"--few-shot {question_set.name}=…: only a knowledge set takes examples",
            f"see {page('evaluation')}",
        )
    places = {
        normalised(question.row.prompt or ""): question.row.where
        for question in question_set.questions
    }
    for example in examples:
        if example.prompt is None:
            raise BadDataError(
                f"{example.where}: an example is a question and its answer",
                "give each row question and answer",
            )
        if (where := places.get(normalised(example.prompt))) is not None:
            raise BadDataError(
                f"{example.where}: this example is also asked ({where})",
                "remove the example: it would reveal the answer",
            )
    return replace(question_set, examples=tuple(examples))
