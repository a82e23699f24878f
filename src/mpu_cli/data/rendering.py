"""Render chat templates, in a child process with limits (template_program.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mpu_cli.data.prompting import DATE, Prompting
from mpu_cli.data.template_process import TemplateLimitError, ask
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.foreign_text import shown

_OURS = frozenset({"messages", "add_generation_prompt", "tools", "documents"})


class TemplateRefusalError(Exception):
    """The template raised an error; the message is the first line of it."""


def source_of(tokenizer: Any) -> str | None:
    """The chat template that rows are rendered with; None if the tokenizer has none.

    Raises:
        BadModelError: the tokenizer has several, and none of them is the default.
    """
    if not tokenizer.chat_template:
        return None
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise BadModelError(
            f"the tokenizer has several chat templates ({names}), and none of them is the default",
            "save one of them as chat_template.jinja",
        ) from None


def render(
    source: str,
    turns: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    prompting: Prompting,
    *,
    add_generation_prompt: bool,
) -> str:
    """Render a conversation.

    Args:
        source: the template.
        turns: {role, content} each.
        tokenizer: the template reads its special tokens by name (`eos_token`, …).
        prompting: variables and date; the caller adds the system prompt, which is a turn.
        add_generation_prompt: begin the assistant's next turn.

    Raises:
        TemplateRefusalError: the template raises an error; or it asks for random numbers, or for
            the time in a way that has no fixed answer.
        TemplateLimitError: it takes too much time or memory, or prints too much.
    """
    answer = ask(
        {
            "source": source,
            "day": prompting.day.isoformat(),
            "given": {
                **tokenizer.special_tokens_map,
                **prompting.values,
                "messages": [dict(turn) for turn in turns],
                "add_generation_prompt": add_generation_prompt,
            },
        }
    )
    if "error" in answer:
        raise TemplateRefusalError(str(answer["error"]).splitlines()[0])
    return str(answer["text"])


def check_variables(tokenizer: Any, prompting: Prompting) -> None:
    """Refuse settings that the template does not read, such as a variable with a typo.

    Raises:
        UsageError: there is no chat template, or it does not read one of the variables.
        BadModelError: see `source_of`.
    """
    dated = prompting.date != DATE
    if not prompting.variables and not prompting.content_parts and not dated:
        return
    source = source_of(tokenizer)
    if source is None:
        flag = (
            "--template-var"
            if prompting.variables
            else "--template-date"
            if dated
            else "--content-parts"
        )
        raise UsageError(f"{flag}: the tokenizer has no chat template", "leave it out")
    known = _reads(source)
    for name, _ in prompting.variables:
        if name not in known:
            others = ", ".join(sorted(known - _OURS)) or "none"
            raise UsageError(
                f"--template-var {name}: the chat template reads no such variable",
                f"it reads: {others}",
            )


@lru_cache(maxsize=32)
def _reads(source: str) -> frozenset[str]:
    try:
        answer = ask({"source": source})
        if "error" not in answer:
            return frozenset(answer["reads"])
        why = f"cannot be parsed: {shown(answer['error'])}"
    except TemplateLimitError as error:
        why = str(error)
    raise BadModelError(
        f"the tokenizer's chat template {why}",
        "use the tokenizer that the model was published with",
    )
