"""Find the last answer in a rendered chat, without searching for the answer's words.

The chat is rendered a second time with a mark in place of the answer. The text before and after the
mark is the template's. The true rendering must be the same text with the answer in between;
otherwise the row is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpu_cli.data.prompting import Prompting
from mpu_cli.data.row import Message
from mpu_cli.errors import BadDataError, BadModelError
from mpu_cli.foreign_text import shown

_MARKS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
"""Unicode's noncharacters: no text uses them, and no template looks for them."""
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation's text in two parts: the prompt, and what the model is to write."""

    prompt: str
    answer: str
    """The answer, and the mark that ends its turn."""


class Renderer:
    """One tokenizer's chat template with fixed settings."""

    def __init__(self, source: str, tokenizer: Any, prompting: Prompting) -> None:
        """`source` is the template's text."""
        self._source, self._tokenizer, self._prompting = source, tokenizer, prompting
        # White space is a special token in some vocabularies (Gemma, StarCoder); it ends no turn.
        self._ends = sorted(
            {
                mark
                for mark in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())
                if mark.strip()
            },
            key=len,
        )

    def chat(self, turns: Sequence[Message], where: str) -> Chat:
        """Render a conversation that ends with an answer.

        A finished turn may begin in another way than one to be generated: Qwen3 puts an empty think
        block, gpt-oss a channel, DeepSeek-R1 leaves `<think>` out. The prompt then is all that the
        finished turn has before the answer. A space right before the answer is part of the answer,
        since it belongs to the first word's token.

        Args:
            turns: the last is the answer.
            where: the row's place, for messages.

        Raises:
            BadDataError: the template refuses the turns, leaves one of them out, or changes the
                answer.
        """
        whole = self._render(turns, where)
        opened = self._render(turns[:-1], where, add_generation_prompt=True)
        before, after = self._around(turns, where)
        answer = turns[-1].content
        rendered = _between(whole, before, after)
        if rendered not in (answer, answer.strip(), answer.lstrip(), answer.rstrip()):
            # A template may move a think block out of the answer; then the mark stood elsewhere.
            rendered, before = _between(whole, opened, after), opened
            if rendered is None or rendered.strip() != answer.strip():
                raise BadDataError(
                    f"{where}: the tokenizer's chat template changes the answer {_short(answer)}:"
                    f" it renders …{_short(whole[-_SHOWN:])}",
                    "remove the row, or what the template removes from it, such as a think block",
                )
        self._check_whole(turns, whole, where)
        gap = before[len(opened) :] if before.startswith(opened) else None
        prompt = opened if gap is not None and not gap.strip() else before.rstrip(" \t")
        end = len(before) + len(rendered or "") + self._end_of_turn(after)
        return Chat(prompt, whole[len(prompt) : end])

    def _around(self, turns: Sequence[Message], where: str) -> tuple[str, str]:
        mark, marked = self._marked(turns, len(turns) - 1, where)
        if marked.count(mark) == 1:
            before, _, after = marked.partition(mark)
            return before, after
        if mark in marked:
            raise BadDataError(
                f"{where}: the tokenizer's chat template renders the answer more than once",
                "use a tokenizer with another chat template",
            )
        hint = "use a tokenizer with another chat template, or with none"
        if not self._prompting.content_parts:
            other = Renderer(
                self._source, self._tokenizer, replace(self._prompting, content_parts=True)
            )
            try:
                if mark in other._marked(turns, len(turns) - 1, where)[1]:
                    hint = "give --content-parts: the template reads content as a list of parts"
            except BadDataError:
                pass
        raise BadDataError(
            f"{where}: the tokenizer's chat template leaves out the answer"
            f" {_short(turns[-1].content)}: it renders {_short(marked)}",
            hint,
        )

    def _check_whole(self, turns: Sequence[Message], whole: str, where: str) -> None:
        # The words of a turn may occur elsewhere too, so each turn gets its own mark, all in one
        # rendering.
        earlier = [number for number, turn in enumerate(turns[:-1]) if turn.content.strip()]
        free = self._free_marks(turns, where)
        missing: list[int] = []
        for start in range(0, len(earlier), len(free)):
            marks = dict(zip(earlier[start:], free, strict=False))
            try:
                marked = self._with(turns, marks, where)
            # A template that parses a turn (a tool's JSON, for example) may refuse a mark.
            except BadDataError:
                missing += [
                    number
                    for number, mark in marks.items()
                    if turns[number].content.strip() not in whole
                    and mark not in self._with(turns, {number: mark}, where)
                ]
                continue
            missing += [number for number, mark in marks.items() if mark not in marked]
        if missing:
            turn = turns[missing[0]]
            raise BadDataError(
                f"{where}: the tokenizer's chat template leaves out the turn by {turn.role!r},"
                f" {_short(turn.content)}",
                "remove the turn (or --system-prompt), or use a template that knows this role",
            )

    def _marked(self, turns: Sequence[Message], number: int, where: str) -> tuple[str, str]:
        """A mark that occurs in no turn, and the chat with it in place of one turn's content."""
        mark = self._free_marks(turns, where)[0]
        return mark, self._with(turns, {number: mark}, where)

    def _free_marks(self, turns: Sequence[Message], where: str) -> list[str]:
        """Marks that occur in no turn, at least one."""
        free = [mark for mark in _MARKS if not any(mark in turn.content for turn in turns)]
        if not free:
            raise BadDataError(f"{where}: holds every noncharacter of Unicode", "remove the row")
        return free

    def _with(self, turns: Sequence[Message], marks: Mapping[int, str], where: str) -> str:
        """The chat with marks in place of some turns' contents."""
        return self._render(
            [
                replace(turn, content=marks.get(place, turn.content))
                for place, turn in enumerate(turns)
            ],
            where,
        )

    def _end_of_turn(self, after: str) -> int:
        """How many characters after the answer the model is to write.

        They end with the first special token; without one, all count.
        """
        marks = [(after.find(mark), len(mark)) for mark in self._ends if mark in after]
        if not marks:
            return len(after)
        start = min(marks)[0]
        return start + max(length for at, length in marks if at == start)

    def _render(
        self, turns: Sequence[Message], where: str, *, add_generation_prompt: bool = False
    ) -> str:
        from mpu_cli.data.rendering import TemplateRefusalError, render
        from mpu_cli.data.template_process import TemplateLimitError

        plain = [{"role": turn.role, "content": self._content(turn.content)} for turn in turns]
        try:
            return render(
                self._source,
                plain,
                self._tokenizer,
                self._prompting,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateRefusalError as error:
            raise BadDataError(
                f"{where}: the tokenizer's chat template refuses this row ({shown(str(error))})",
                "check the roles and their order: some templates need user and assistant in turn",
            ) from None
        except TemplateLimitError as error:
            raise BadModelError(
                f"{where}: the tokenizer's chat template {error}",
                "use the tokenizer that the model was published with",
            ) from None

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self._prompting.content_parts else text


def _between(whole: str, before: str, after: str) -> str | None:
    fits = (
        whole.startswith(before)
        and whole.endswith(after)
        and len(whole) >= len(before) + len(after)
    )
    return whole[len(before) : len(whole) - len(after)] if fits else None


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…")
