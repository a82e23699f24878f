"""Questions as token ids: the texts to score, and the prompts to continue."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from mpu_cli.data.context import context_length, row_limit
from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.data.rendering import check_variables
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import TokenizedRow, cut, encode_whole
from mpu_cli.data.vocabulary import require_known
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.prompt_format import PromptFormat
from mpu_cli.evaluation.questions import Question, QuestionSet


@dataclass(frozen=True, slots=True)
class Text:
    """One text to score."""

    set_name: str
    row: int
    variant: str
    encoded: TokenizedRow
    where: str
    ended: bool
    """Whether its last token is the model's own mark at the end of a turn."""


class Encoder:
    """Encode rows for one model, and refuse answers that do not fit in its context."""

    def __init__(
        self, tokenizer: Any, config: Any, max_length: int | None, prompting: Prompting = PLAIN
    ) -> None:
        """`max_length` None is the model's context.

        Raises:
            UsageError: `max_length` exceeds the model's context, or the chat template does not read
                a variable that is set.
        """
        self.tokenizer, self.prompting = tokenizer, prompting
        check_variables(tokenizer, prompting)
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        self._context = context_length(text_config.to_dict())
        self.max_length = (
            row_limit(max_length, self._context).tokens
            if max_length is not None
            else self._context or 2048
        )
        # The unknown-word token stands for a word, so it ends no answer.
        self._marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()} - {
            tokenizer.unk_token_id
        }
        self.vocabulary: int | None = getattr(text_config, "vocab_size", None)
        self.cut: list[str] = []
        """Places of plain texts of which only the beginning is measured."""

    def texts(self, sets: Sequence[QuestionSet], variants: Collection[str]) -> list[Text]:
        """Encode every text of these variants.

        Raises:
            BadDataError: an answer does not fit, has no tokens, or has a token that the model does
                not know.
        """
        return [
            self._text(question_set.name, number, variant, row)
            for question_set in sets
            for number, question in enumerate(question_set.questions)
            for variant in variants
            for row in question.variants(variant)
        ]

    def prompt(
        self, question: Question, variant: str = "answer", asked: PromptFormat | None = None
    ) -> tuple[int, ...]:
        """The tokens that a model is to continue: the question, or the first half of a plain text.

        Raises:
            BadDataError: there are none, they do not fit in the context, or they leave no room to
                write.
        """
        (row,) = question.variants(variant) or (question.row,)
        text = asked.text(row) if asked is not None else None
        if text is not None:
            return self._bare(text, row.where)
        encoded = self._encoded(row, variant)
        return encoded.input_ids[: _prompt_length(row, encoded)]

    def room(self, prompts: Sequence[Sequence[int]]) -> int:
        """The tokens that the longest prompt leaves in the model's context, at least one."""
        if self._context is None or not prompts:
            return sys.maxsize
        return max(1, self._context - max(map(len, prompts)))

    def ends(self, questions: Sequence[Question]) -> tuple[int, ...]:
        """The marks that end the answers to these questions.

        The end of a turn in a chat template need not be an end-of-sequence token of the config.
        """
        rows = [question.row for question in questions if question.row.text is None]
        last = {encode_whole(row, self.tokenizer, self.prompting).input_ids[-1] for row in rows}
        return tuple(sorted(last & self._marks))

    def rest_of_text(self, question: Question, tokens: int | None = None) -> str:
        """The text after the prompt of a plain text, or its first `tokens` tokens."""
        encoded = self._encoded(question.row, "answer")
        rest = encoded.input_ids[_prompt_length(question.row, encoded) :][:tokens]
        return str(self.tokenizer.decode(rest, skip_special_tokens=True))

    def beginning(self, text: str, where: str, tokens: int) -> str:
        """The first tokens of a text, as text; a beginning-of-sequence token counts, as in MUSE."""
        ids = encode_whole(Row(where, text=text), self.tokenizer).input_ids[:tokens]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _text(self, set_name: str, number: int, variant: str, row: Row) -> Text:
        encoded = self._encoded(row, variant)
        ended = row.text is None and encoded.input_ids[-1] in self._marks
        return Text(set_name, number, variant, encoded, row.where, ended)

    def _encoded(self, row: Row, variant: str) -> TokenizedRow:
        """The whole row, or the beginning of a plain text."""
        whole = encode_whole(row, self.tokenizer, self.prompting)
        length = len(whole.input_ids)
        if length > self.max_length:
            if row.text is None:
                raise BadDataError(
                    f"{row.where}: {variant} needs {length} tokens, the limit is {self.max_length}",
                    "shorten the row, or raise --max-length if the model's context is longer: an"
                    " answer that is cut would be another answer",
                )
            self.cut.append(row.where)
        encoded = cut(whole, row.where, self.max_length)
        require_known(encoded.input_ids, row.where, self.tokenizer, self.vocabulary)
        return encoded

    def _bare(self, text: str, where: str) -> tuple[int, ...]:
        """A prompt without a template: the tokenizer's beginning mark, the text, no end mark."""
        ids = encode_whole(Row(where, text=text), self.tokenizer).input_ids
        ids = ids[:-1] if len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id else ids
        if not ids:
            raise BadDataError(
                f"{where}: the prompt is empty, and this tokenizer puts no token before a text, so"
                " there is nothing to continue",
                "give the row a prompt, or remove it",
            )
        if len(ids) >= self.max_length:
            raise BadDataError(
                f"{where}: the prompt needs {len(ids)} tokens, the limit is {self.max_length}: no"
                " room is left for an answer",
                "give shorter or fewer examples (--few-shot), shorten the row, or raise"
                " --max-length if the model's context is longer",
            )
        require_known(ids, where, self.tokenizer, self.vocabulary)
        return ids


def _prompt_length(row: Row, encoded: TokenizedRow) -> int:
    return max(1, encoded.prompt_length if row.text is None else len(encoded.input_ids) // 2)
