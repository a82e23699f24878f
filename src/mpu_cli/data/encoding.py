"""Encode a set of rows: cut pairs and chats, split or pack texts, and report each change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpu_cli.data.context import Limit
from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import TokenizedRow, cut, encode_whole, has_own_system
from mpu_cli.data.vocabulary import require_known
from mpu_cli.data.windows import join as join_texts
from mpu_cli.data.windows import pack as pack_texts
from mpu_cli.data.windows import split
from mpu_cli.errors import BadDataError


@dataclass(frozen=True, slots=True)
class TokenizedRows:
    """Encoded rows, and how they differ from the rows that were read."""

    rows: list[TokenizedRow]
    """One for each row, in order, unless texts were split or packed; packed blocks come last."""
    lengths: tuple[int, ...]
    """Tokens of each row before it was cut, split or packed."""
    cut: tuple[str, ...]
    """Places of the pairs and chats whose answers were cut at `max_length`."""
    split: tuple[str, ...]
    """Places of the texts that were split into windows."""
    packed: tuple[int, int]
    """The number of packed texts, and of their blocks."""
    own_system: tuple[str, ...] = ()
    """Places of the chats whose own system turn replaces the common system prompt."""
    joined: tuple[int, int] = (0, 0)
    """The number of joined texts, and of their chunks."""

    def notes(self, name: str, limit: Limit) -> list[str]:
        """A note on each kind of change, for the user; `name` is the file's."""
        most = limit.tokens
        lines = []
        if self.cut:
            lines.append(
                f"{name}: {_rows(len(self.cut))} cut at {most} tokens ({limit.because}), the first"
                f" is {self.cut[0]}"
            )
        if self.split:
            lines.append(
                f"{name}: {_rows(len(self.split))} split into windows of {most} tokens, the first"
                f" is {self.split[0]}"
            )
        texts, blocks = self.packed
        if texts > blocks:
            lines.append(
                f"{name}: {texts} texts in {blocks} blocks (--packing); attention reaches across"
                " the texts of a block"
            )
        if self.own_system:
            kept = (
                "1 chat keeps its"
                if len(self.own_system) == 1
                else f"{len(self.own_system)} chats keep their"
            )
            lines.append(
                f"{name}: {kept} own system turn instead of --system-prompt, the first is"
                f" {self.own_system[0]}"
            )
        if self.joined[0]:
            texts, chunks = self.joined
            lines.append(
                f"{name}: {texts} texts joined and cut into {chunks} chunks of {most} tokens"
                " (--join-texts)"
            )
        return lines


def encode_rows(
    rows: Sequence[Row],
    tokenizer: Any,
    max_length: int,
    *,
    overlap: int | None = None,
    pack: bool = False,
    prompting: Prompting = PLAIN,
    join: bool = False,
    vocabulary: int | None = None,
    refused: list[BadDataError] | None = None,
) -> TokenizedRows:
    """Encode all rows of a file.

    Args:
        rows: the rows.
        tokenizer: the model's.
        max_length: the most tokens in an encoded row.
        overlap: tokens that two windows of a long text share; None = `windows.default_overlap`.
        pack: put texts that fit together into blocks (`windows.pack`).
        prompting: the system prompt and template variables of every pair and chat.
        vocabulary: rows of the model's embedding; None = unknown.
        join: join all texts and cut them into chunks (`windows.join`), which come last.
        refused: receives the errors of rows that cannot be encoded; None = raise the first.

    Raises:
        BadDataError: a row has no labelled token within `max_length`, or a token that the model
            does not know, or the chat template refuses it.
        UsageError: the overlap does not fit, or the chat template does not read a variable.
    """
    from mpu_cli.data.rendering import check_variables

    check_variables(tokenizer, prompting)
    if join:
        texts, others = (
            [row for row in rows if (row.text is not None) == plain] for plain in (True, False)
        )
        made = encode_rows(
            others,
            tokenizer,
            max_length,
            prompting=prompting,
            vocabulary=vocabulary,
            refused=refused,
        )
        chunks = join_texts([row.text or "" for row in texts], tokenizer, max_length)
        for chunk in chunks:
            require_known(chunk.input_ids, "the joined texts", tokenizer, vocabulary)
        if texts and not chunks:
            raise BadDataError(
                f"{texts[0].where}: all texts together have no token to predict",
                "give longer texts",
            )
        return replace(made, rows=[*made.rows, *chunks], joined=(len(texts), len(chunks)))
    encoded: list[TokenizedRow] = []
    short: list[TokenizedRow] = []
    lengths: list[int] = []
    cut_places, split_places = [], []
    for row in rows:
        try:
            whole = encode_whole(row, tokenizer, prompting)
            require_known(whole.input_ids, row.where, tokenizer, vocabulary)
            lengths.append(len(whole.input_ids))
            beginning = cut(whole, row.where, max_length)
        except BadDataError as error:
            if refused is None:
                raise
            refused.append(error)
            continue
        long = lengths[-1] > max_length
        if long and row.text is not None:
            encoded += split(whole, tokenizer, max_length, overlap)
            split_places.append(row.where)
        else:
            (short if pack and row.text is not None else encoded).append(beginning)
            cut_places += [row.where] * long
    blocks = pack_texts(short, tokenizer, max_length) if short else []
    for block in blocks:  # a separator is a token too
        require_known(block.input_ids, "--packing", tokenizer, vocabulary)
    own = (
        tuple(row.where for row in rows if has_own_system(row))
        if prompting.system is not None
        else ()
    )
    return TokenizedRows(
        [*encoded, *blocks],
        tuple(lengths),
        tuple(cut_places),
        tuple(split_places),
        (len(short), len(blocks)),
        own,
    )


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count} rows are"
