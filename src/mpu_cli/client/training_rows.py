"""Rows as token ids for one model.

TokenizedRow before its weights are read, and fingerprinted for the recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.recipe import Recipe
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import TokenizedRow

if TYPE_CHECKING:
    from mpu_cli.data.encoding import TokenizedRows


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of a recipe for one tokenizer and template."""

    forget: list[TokenizedRow]
    retain: list[TokenizedRow]
    alternates: list[TokenizedRow] = field(default_factory=list)
    """Every alternate answer that may be trained on, in no order of training.

    For the digest alone.
    """

    @property
    def digest(self) -> str:
        """SHA-256 over all tokens and labels, in hex, half for each set.

        Copies are trained alike only on the same ones.
        """
        from mpu_cli.data.tokens import tokens_digest

        sets = (
            (self.forget, self.retain, self.alternates)
            if self.alternates
            else (self.forget, self.retain)
        )
        return "".join(tokens_digest(rows)[:32] for rows in sets)


class RowEncoder:
    """The tokenizer, the limit and the settings with which a recipe's rows become tokens of the model in a directory."""

    def __init__(
        self, source: Path, recipe: Recipe, on_note: Callable[[str], None] = lambda line: None
    ) -> None:
        """`on_note` is told what becomes of rows that are cut, split, packed or joined, a line each.

        Raises:
            BadModelError: no tokenizer, or a model that cannot be loaded (see `check_fits`).
            UsageError: more tokens are asked for than the model can see.
        """
        from mpu_cli.data.context import context_length, row_limit
        from mpu_cli.data.templates import lead_ids
        from mpu_cli.modeling.load import check_fits, load_tokenizer

        config = check_fits(open_checkpoint(source))
        self.vocabulary: int = config.get_text_config().vocab_size
        """Rows of the model's embedding."""
        self.tokenizer = load_tokenizer(source)
        self._recipe, self._on_note = recipe, on_note
        settings = recipe.settings
        # Chunks of joined texts get the beginning-of-sequence token on top of their length.
        beside = len(lead_ids(self.tokenizer)) if settings.join_texts else 0
        self._limit = row_limit(
            settings.max_length, context_length(config.to_dict()), beside=beside
        )

    def encoded(self, rows: Sequence[Row], name: str) -> list[TokenizedRow]:
        """Rows of one set; `name` is the set's.

        Raises:
            BadDataError: a row that the chat template refuses or alters, or without an answer token
                within the limit.
            UsageError: a template variable that the template does not read; an overlap that does
                not fit.
        """
        made = self._made(rows)
        for line in made.notes(name, self._limit):
            self._on_note(line)
        return made.rows

    def training_rows(
        self, forget: Sequence[Row], retain: Sequence[Row] | None, alternates: Sequence[Row] = ()
    ) -> TrainingRows:
        """Both sets, and the alternates that may be dealt, of which nothing is told yet.

        Raises as `encoded`.
        """
        return TrainingRows(
            self.encoded(forget, "forget"),
            self.encoded(retain or (), "retain"),
            self._made(alternates).rows,
        )

    def _made(self, rows: Sequence[Row]) -> TokenizedRows:
        from mpu_cli.data.encoding import encode_rows

        settings = self._recipe.settings
        return encode_rows(
            rows,
            self.tokenizer,
            self._limit.tokens,
            overlap=settings.overlap,
            pack=settings.pack,
            join=settings.join_texts,
            prompting=self._recipe.prompting,
            vocabulary=self.vocabulary,
        )
