"""Render chat templates so that the result depends on the template, turns and `Prompting` alone.

transformers renders with the clock (`strftime_now`), and jinja has two random functions (`random`,
`lipsum`), so the same row could become other tokens tomorrow. Apart from these, the environment is
the one that templates are written for: sandboxed, blocks trimmed, with `raise_exception`, `tojson`,
`break` and `continue`, and `{% generation %}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import TemplateError, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mpu_cli.data.dates import format_day
from mpu_cli.data.prompting import DATE, Prompting
from mpu_cli.errors import BadModelError, UsageError

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LOCALE_NUMBER = re.compile(r"\{[^{}]*:[^{}]*n\}")
_OURS = frozenset({"messages", "add_generation_prompt", "tools", "documents"})


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
        Exception: any error that the template raises. TemplateError: it asks for random numbers, or
            for the time in a way that has no fixed answer.
    """
    given = {**tokenizer.special_tokens_map, **prompting.values}
    return str(
        _compiled(source, prompting.day).render(
            **given,
            messages=[dict(turn) for turn in turns],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
        )
    )


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
def _compiled(source: str, day: date) -> Any:
    environment = _environment()
    environment.globals["strftime_now"] = lambda wanted: format_day(day, str(wanted))
    tree = environment.parse(source)
    if any(
        attribute.attr in ("format", "format_map") for attribute in tree.find_all(nodes.Getattr)
    ):
        for constant in tree.find_all(nodes.Const):
            if isinstance(constant.value, str) and _LOCALE_NUMBER.search(constant.value):
                raise TemplateError(
                    f"the number format {constant.value!r} depends on the machine's locale"
                )
    return environment.from_string(source)


@lru_cache(maxsize=32)
def _reads(source: str) -> frozenset[str]:
    environment = _environment()
    return frozenset(meta.find_undeclared_variables(environment.parse(source)))


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _Generation],
        finalize=_finalize,
    )
    environment.filters["tojson"] = _to_json
    environment.filters["random"] = lambda *_: _refuse_random("random")
    environment.globals["lipsum"] = lambda *_, **__: _refuse_random("lipsum")
    environment.globals["raise_exception"] = _raise
    environment.globals["dict"] = lambda *pairs, **items: dict(*pairs, **items)
    return environment


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model wrote; here it is a plain block."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """The statements between the two tags, in a scope of their own."""
        line = next(parser.stream).lineno
        return nodes.Scope(
            parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
        )


def _finalize(value: Any) -> Any:
    """Refuse to print an object whose text is its address in memory: it differs in every run."""
    if not isinstance(value, str | int | float | None) and _ADDRESS.search(str(value)):
        raise SecurityError(
            f"it prints an object ({type(value).__name__}) whose text differs in every run"
        )
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse_random(name: str) -> NoReturn:
    raise TemplateError(
        f"it uses random numbers ({name}), so the same row would become another prompt each time"
    )


def _raise(message: object) -> NoReturn:
    raise TemplateError(str(message))
