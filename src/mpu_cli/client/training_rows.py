"""Rows as token ids for one model, before its weights are read, with a digest for the recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.client.recipe import Recipe
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import BadDataError
from mpu_cli.training.settings import TrainingSettings

if TYPE_CHECKING:
    from mpu_cli.data.batches import RowSampling
    from mpu_cli.data.encoding import TokenizedRows


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """The rows of a recipe for one tokenizer and template."""

    forget: list[TokenizedRow]
    retain: list[TokenizedRow]
    alternates: list[TokenizedRow] = field(default_factory=list)
    """Every alternate answer that may be trained on, for the digest only."""
    unanswerable: list[TokenizedRow] = field(default_factory=list)
    """Of these only the prompts are read."""

    @property
    def digest(self) -> str:
        """Half a SHA-256 of each set's tokens and labels, in hex."""
        from mpu_cli.data.tokens import tokens_digest

        sets = (self.forget, self.retain, *filter(None, (self.alternates, self.unanswerable)))
        return "".join(tokens_digest(rows)[:32] for rows in sets)

    def require_prompts(self, rows: Sequence[Row], reader: str) -> None:
        """Check that every row has a prompt, which the method called `reader` reads.

        Args:
            rows: the forget, retain and unanswerable rows, in this order.
            reader: for the message.

        Raises:
            BadDataError: a row is a plain text, or its prompt is empty.
        """
        tokenized = (*self.forget, *self.retain, *self.unanswerable)
        bare = next((row for row in rows if row.text is not None), None) or next(
            (row for row, own in zip(rows, tokenized, strict=False) if not own.prompt_length), None
        )
        if bare is not None:
            raise BadDataError(
                f"{bare.where}: has no prompt, and {reader} reads prompts only",
                "give prompt and answer, or messages, or choose another --method",
            )


class RowEncoder:
    """Turns a recipe's rows into tokens of the model in a directory."""

    def __init__(
        self, source: Path, recipe: Recipe, on_note: Callable[[str], None] = lambda line: None
    ) -> None:
        """Read the tokenizer and the configuration.

        `on_note` is called with a line on each set of which rows are cut, split, packed or joined,
        once a set.

        Raises:
            BadModelError: no tokenizer, or a model that cannot be loaded (see `check_fits`).
            UsageError: more tokens are asked for than the model can see.
        """
        from mpu_cli.data.context import context_length, row_limit
        from mpu_cli.data.templates import lead_ids
        from mpu_cli.modeling.load import check_fits
        from mpu_cli.modeling.tokenizer import load_tokenizer

        config = check_fits(open_checkpoint(source))
        self.vocabulary: int = config.get_text_config().vocab_size
        """Rows of the model's embedding."""
        self.tokenizer = load_tokenizer(source)
        self._recipe, self._on_note = recipe, on_note
        self._noted: set[str] = set()
        settings = recipe.settings
        # Chunks of joined texts get the beginning-of-sequence token on top of their length.
        beside = len(lead_ids(self.tokenizer)) if settings.join_texts else 0
        self._limit = row_limit(
            settings.max_length, context_length(config.to_dict()), beside=beside
        )

    def encoded(self, rows: Sequence[Row], name: str) -> list[TokenizedRow]:
        """Tokenize the rows of the set called `name`.

        Raises:
            BadDataError: a row that the chat template refuses or alters, or without an answer token
                within the limit.
            UsageError: a template variable that the template does not read; an overlap that does
                not fit.
        """
        tokenized = self._tokenize(rows)
        if name not in self._noted:
            self._noted.add(name)
            for line in tokenized.notes(name, self._limit):
                self._on_note(line)
        return tokenized.rows

    def training_rows(
        self,
        forget: Sequence[Row],
        retain: Sequence[Row] | None,
        alternates: Sequence[Row] = (),
        unanswerable: Sequence[Row] = (),
    ) -> TrainingRows:
        """Tokenize the sets, and without a note the alternates that may be dealt.

        Raises:
            BadDataError, UsageError: see `encoded`.
        """
        return TrainingRows(
            self.encoded(forget, "forget"),
            self.encoded(retain or (), "retain"),
            self._tokenize(alternates).rows,
            self.encoded(unanswerable, "unanswerable"),
        )

    def _tokenize(self, rows: Sequence[Row]) -> TokenizedRows:
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


def alternate_rows(
    forget: Sequence[Row],
    refusals: Sequence[str],
    settings: TrainingSettings,
    sampling: RowSampling,
) -> list[Row]:
    """The forget rows with their alternates, one epoch after the other if refusals are redrawn."""
    if not (settings.redraw_refusals and refusals):
        return list(forget)
    from mpu_cli.data.refusals import with_refusals

    parts = (sampling.stream(settings.seed), sampling.retain)
    stream = "/".join(part for part in parts if part)
    return [
        row
        for epoch in range(settings.epochs)
        for row in with_refusals(
            forget,
            refusals,
            f"{stream}/epoch {sampling.first_epoch + epoch}",
            independent=sampling.independent,
        )
    ]


def possible_alternates(
    forget: Sequence[Row], refusals: Sequence[str], settings: TrainingSettings
) -> list[Row]:
    """Rows with every answer that some order of training may deal: the same for all copies."""
    own = [row.with_answer(row.alternate) for row in forget if row.alternate is not None]
    dealt = refusals if settings.redraw_refusals else ()
    return own + [forget[0].with_answer(refusal) for refusal in dealt]
