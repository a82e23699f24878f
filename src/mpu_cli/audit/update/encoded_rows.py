"""The rows of an audit as the model's tokens, one for each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.audit.update.row_sets import RowSets
from mpu_cli.data.batches import pad_id
from mpu_cli.data.context import context_length, row_limit
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.rendering import check_variables
from mpu_cli.data.templates import TokenizedRow, cut, encode_whole
from mpu_cli.data.vocabulary import require_known
from mpu_cli.modeling.tokenizer import load_config, load_tokenizer

Progress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


@dataclass(frozen=True, slots=True)
class EncodedRows:
    """Each set of `RowSets` by name, encoded; a long text is usually cut to its beginning."""

    sets: Mapping[str, Sequence[TokenizedRow]]
    vocabulary: int
    """Rows of the model's embedding."""
    pad_id: int

    @property
    def forget_types(self) -> frozenset[int]:
        """The token types of the rows that were forgotten, cover rows included.

        The last token of a row is no input, and a label only counts in the answer; both are counted
        here, because the server does not know which rows moved a type.
        """
        rows = (*self.sets["forget"], *self.sets["cover"])
        return frozenset(token for row in rows for token in row.input_ids)


def encode_sets(
    rows: RowSets,
    source: Path,
    max_length: int | None,
    prompting: Prompting,
    *,
    whole_texts: bool = False,
) -> EncodedRows:
    """Encode all rows for the model in a directory; `whole_texts` leaves long texts uncut.

    Raises:
        BadDataError: a row that cannot be encoded.
        UsageError: `max_length` exceeds the context, or a template variable is not read.
    """
    config = load_config(source)
    tokenizer = load_tokenizer(source)
    check_variables(tokenizer, prompting)
    limit = row_limit(max_length, context_length(config.to_dict()))
    vocabulary: int = config.get_text_config().vocab_size
    encoded: dict[str, list[TokenizedRow]] = {}
    for name, members in rows.by_name().items():
        encoded[name] = []
        for row in members:
            whole = encode_whole(row, tokenizer, prompting)
            require_known(whole.input_ids, row.where, tokenizer, vocabulary)
            uncut = whole_texts and row.text is not None
            encoded[name].append(whole if uncut else cut(whole, row.where, limit.tokens))
    return EncodedRows(encoded, vocabulary, pad_id(tokenizer, vocabulary))
