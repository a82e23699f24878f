"""One example of a forget, retain or holdout set."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mpu_cli.errors import BadDataError


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt/answer pair, a chat, or plain text. Exactly one of the three is set.

    `where` is its place, for messages: "forget.jsonl:3", or "forget.json row 3" in a JSON list.
    """

    where: str
    prompt: str | None = None
    answer: str | None = None
    messages: tuple[Message, ...] = ()
    text: str | None = None
    alternate: str | None = None
    """The answer to give instead, or None."""

    @property
    def form(self) -> str:
        """The kind of row: prompt/answer, messages or text."""
        return "text" if self.text is not None else "messages" if self.messages else "prompt/answer"

    def with_answer(self, answer: str) -> Row:
        """The same prompt or chat with another answer.

        Raises:
            BadDataError: the row is a plain text, which has no answer.
        """
        if self.text is not None:
            raise BadDataError(
                f"{self.where}: a text has no answer to replace",
                "give prompt and answer, or messages",
            )
        if self.messages:
            last = replace(self.messages[-1], content=answer)
            return replace(self, messages=(*self.messages[:-1], last))
        return replace(self, answer=answer)
