"""From questions to token ids: every text that has to be scored, and every prompt that has to be continued."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mpu_cli.data.rows import Row
from mpu_cli.data.templates import Encoded, cut, encode_whole
from mpu_cli.errors import BadDataError, BadModelError, UsageError
from mpu_cli.evaluation.questions import Question, QuestionSet


@dataclass(frozen=True, slots=True)
class Text:
    """One text to score."""

    set_name: str
    row: int
    variant: str
    encoded: Encoded
    where: str
    ended: bool
    """Whether its last token is the model's own mark at the end of a turn."""


class Encoder:
    """Encodes rows for one model, and refuses answers that do not fit in its context."""

    def __init__(self, tokenizer: Any, config: Any, max_length: int | None) -> None:
        """`max_length` None is the model's context.

        Raises:
            UsageError: more tokens are asked for than the model can see.
        """
        self.tokenizer = tokenizer
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        context = getattr(text_config, "max_position_embeddings", None) or getattr(text_config, "n_positions", None)
        self._context: int | None = context
        if max_length is not None and context is not None and max_length > context:
            raise UsageError(f"--max-length {max_length}: the model sees {context} tokens", f"give at most {context}")
        self.max_length: int = max_length or context or 2048
        # A word that the tokenizer does not know is still a word.
        self._marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - {tokenizer.unk_token_id}
        self.vocabulary: int | None = getattr(text_config, "vocab_size", None)
        self.cut: list[str] = []
        """Places of plain texts of which only the beginning is measured."""

    def texts(self, sets: Sequence[QuestionSet], variants: Collection[str]) -> list[Text]:
        """Every text of these variants.

        Raises:
            BadDataError: an answer does not fit, or is empty in tokens.
            BadModelError: the tokenizer knows more tokens than the model.
        """
        found = []
        for each in sets:
            for number, question in enumerate(each.questions):
                for variant in variants:
                    for row in question.variants(variant):
                        found.append(self._text(each.name, number, variant, row))
        return found

    def prompt(self, question: Question, variant: str = "answer") -> tuple[int, ...]:
        """The tokens after which a model shall write: the question, or the first half of a plain text."""
        (row,) = question.variants(variant) or (question.row,)
        encoded = encode_whole(row, self.tokenizer)
        self._fits(row, variant, len(encoded.input_ids))
        self._known(cut(encoded, row.where, self.max_length).input_ids, row.where)  # which refuses a row without an answer
        if len(encoded.input_ids) > self.max_length:
            self.cut.append(row.where)
        length = encoded.prompt_length if row.text is None else min(len(encoded.input_ids), self.max_length) // 2
        return encoded.input_ids[: max(1, min(length, self.max_length))]

    def room(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many tokens the longest of these prompts leaves of the model's context, at least one."""
        if self._context is None or not prompts:
            return sys.maxsize
        return max(1, self._context - max(map(len, prompts)))

    def ends(self, questions: Sequence[Question]) -> tuple[int, ...]:
        """The marks at which answers to these questions end: a chat template's end of turn may be no end to the model's config."""
        last = {encode_whole(question.row, self.tokenizer).input_ids[-1] for question in questions if question.row.text is None}
        return tuple(sorted(last & self._marks))

    def rest_of_text(self, question: Question) -> str:
        """What follows the prompt of a plain text."""
        encoded = encode_whole(question.row, self.tokenizer)
        return str(self.tokenizer.decode(encoded.input_ids[len(self.prompt(question)) : self.max_length], skip_special_tokens=True))

    def _text(self, set_name: str, number: int, variant: str, row: Any) -> Text:
        whole = encode_whole(row, self.tokenizer)
        length = len(whole.input_ids)
        self._fits(row, variant, length)
        if length > self.max_length:
            self.cut.append(row.where)
        encoded = cut(whole, row.where, self.max_length)
        self._known(encoded.input_ids, row.where)
        return Text(set_name, number, variant, encoded, row.where, row.text is None and encoded.input_ids[-1] in self._marks)

    def _fits(self, row: Row, variant: str, length: int) -> None:
        if length > self.max_length and row.text is None:
            raise BadDataError(
                f"{row.where}: {variant} needs {length} tokens, the limit is {self.max_length}",
                "an answer that is cut is another answer: shorten the row, or raise --max-length if the model sees more",
            )

    def _known(self, ids: Sequence[int], where: str) -> None:
        if self.vocabulary is not None and max(ids) >= self.vocabulary:
            raise BadModelError(
                f"{where}: token {max(ids)} is not among the model's {self.vocabulary}", "the tokenizer belongs to another model"
            )
