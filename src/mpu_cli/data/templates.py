"""Encode rows as token ids, with labels on the answer only.

If the tokenizer has a chat template, a pair is a user turn and an assistant turn. If not, it is

    prompt + separator + answer + end-of-sequence token

where the separator is one newline, or nothing if the prompt ends or the answer begins with white
space. A chat without a chat template becomes its earlier turns joined by newlines, then its last
answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.data.row import Message, Row
from mpu_cli.errors import BadDataError, BadModelError
from mpu_cli.foreign_text import shown

IGNORED = -100
"""The label of a token that does not count in the loss, as in torch and transformers."""


@dataclass(frozen=True, slots=True)
class TokenizedRow:
    """One row as T token ids and T labels; a label is the token's id or `IGNORED`, not shifted."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def prompt_length(self) -> int:
        """The number of tokens before the first labelled one: the prompt to generate from."""
        return next(
            (i for i, label in enumerate(self.labels) if label != IGNORED), len(self.labels)
        )


def encode(row: Row, tokenizer: Any, max_length: int, prompting: Prompting = PLAIN) -> TokenizedRow:
    """Encode one row as at most `max_length` tokens, cut at the right.

    Only the answer is labelled, with its end-of-turn or end-of-sequence token: in a chat the last
    turn, in a plain text every token, and nothing is appended. The prompt's tokens are a prefix of
    the result, so a model is later asked to continue what it was trained to continue. A
    beginning-of-sequence token is there once if the tokenizer or its chat template puts one.

    Raises:
        BadDataError: no labelled token is left within `max_length`, or the chat template refuses or
            changes the row.
    """
    return cut(encode_whole(row, tokenizer, prompting), row.where, max_length)


def encode_whole(row: Row, tokenizer: Any, prompting: Prompting = PLAIN) -> TokenizedRow:
    """Encode one row as `encode` does, without a limit.

    Raises:
        BadDataError: the chat template refuses or changes the row.
    """
    if row.text is not None:
        ids = _without_doubles(tokenizer, _token_ids(tokenizer, row.text))
        return TokenizedRow(tuple(ids), tuple(ids))
    turns = _turns(row, prompting)
    prompt, whole = (
        _chat_ids(turns, row.where, tokenizer, prompting)
        if tokenizer.chat_template
        else _plain_ids(turns, tokenizer)
    )
    return TokenizedRow(tuple(whole), tuple([IGNORED] * len(prompt) + whole[len(prompt) :]))


def cut(encoded: TokenizedRow, where: str, max_length: int) -> TokenizedRow:
    """Keep the first `max_length` tokens.

    Raises:
        BadDataError: no labelled token is left; `where` names the row.
    """
    beginning = TokenizedRow(encoded.input_ids[:max_length], encoded.labels[:max_length])
    # No token predicts the first one, so its label does not count.
    if all(label == IGNORED for label in beginning.labels[1:]):
        raise BadDataError(
            f"{where}: no answer token is left within {max_length} tokens",
            "raise --max-length, or shorten the prompt",
        )
    return beginning


def has_own_system(row: Row) -> bool:
    """Whether a chat begins with its own system turn, which replaces the common system prompt."""
    return bool(row.messages) and row.messages[0].role in ("system", "developer")


def _turns(row: Row, prompting: Prompting) -> list[Message]:
    turns = list(row.messages) or [
        Message("user", row.prompt or ""),
        Message("assistant", row.answer or ""),
    ]
    if prompting.system is None or has_own_system(row):
        return turns
    return [Message("system", prompting.system), *turns]


def _plain_ids(turns: list[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    prompt, answer = "\n".join(turn.content for turn in turns[:-1]), turns[-1].content
    if prompt and not prompt[-1].isspace() and not answer[0].isspace():
        prompt += "\n"
    lead = lead_ids(tokenizer)
    prompt_ids, whole = _split(tokenizer, prompt, answer)
    if whole[: len(lead)] != lead:
        prompt_ids, whole = lead + prompt_ids, lead + whole
    end = tokenizer.eos_token_id
    if end is not None and whole[-1] != end:
        whole = [*whole, end]
    return prompt_ids, whole


def _chat_ids(
    turns: list[Message], where: str, tokenizer: Any, prompting: Prompting
) -> tuple[list[int], list[int]]:
    from mpu_cli.data.chat import Renderer
    from mpu_cli.data.rendering import source_of

    chat = Renderer(source_of(tokenizer) or "", tokenizer, prompting).chat(turns, where)
    return _split(tokenizer, chat.prompt, chat.answer)


def _split(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of prompt + answer, of which the first are a prefix."""
    prompt_ids = _bare(tokenizer, prompt)
    whole = _bare(tokenizer, prompt + answer)
    if whole[: len(prompt_ids)] != prompt_ids or len(whole) == len(prompt_ids):
        # A token spans the boundary; generation starts from the prompt's own tokens.
        whole = prompt_ids + _bare(tokenizer, answer)
    return prompt_ids, whole


def _bare(tokenizer: Any, text: str) -> list[int]:
    return _token_ids(tokenizer, text, add_special_tokens=False) if text else []


def _token_ids(tokenizer: Any, text: str, **settings: bool) -> list[int]:
    try:
        return list(tokenizer(text, verbose=False, **settings)["input_ids"])
    except MemoryError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more special
        raise BadModelError(
            f"{tokenizer.name_or_path}: the tokenizer fails on a text: {shown(str(error))}",
            "use the tokenizer that the model was published with",
        ) from error


def lead_ids(tokenizer: Any) -> list[int]:
    """The special tokens that the tokenizer puts before a text, often one or none."""
    return _around(tokenizer)[0]


def _around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a text."""
    bare = _bare(tokenizer, "a")
    full = _token_ids(tokenizer, "a")
    start = next(
        (i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0
    )
    return full[:start], full[start + len(bare) :]


def _without_doubles(tokenizer: Any, ids: list[int]) -> list[int]:
    """The ids of a text, with the tokenizer's marks at its ends once each."""
    lead, tail = _around(tokenizer)
    if lead and ids[: 2 * len(lead)] == lead + lead:
        ids = ids[len(lead) :]
    if tail and ids[-2 * len(tail) :] == tail + tail:
        ids = ids[: -len(tail)]
    return ids
