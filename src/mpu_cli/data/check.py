"""What `mpu data check` reports about a file of rows, before hours of training are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpu_cli.data.context import Limit
from mpu_cli.data.duplicates import contents, duplicates, in_both, same_prompt
from mpu_cli.data.encoding import TokenizedRows, encode_rows
from mpu_cli.data.mapping import for_retain
from mpu_cli.data.prompting import PLAIN, Prompting
from mpu_cli.data.rows import Row, Scan, scan_rows
from mpu_cli.data.templates import IGNORED, TokenizedRow, cut, encode_whole
from mpu_cli.errors import BadDataError, UsageError


@dataclass(frozen=True, slots=True)
class Spread:
    """Four numbers about lengths; percentiles by nearest rank."""

    least: int
    median: int
    most_of_95: int
    most: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Spread | None:
        """The spread of these lengths; None if there are none."""
        if not lengths:
            return None
        ordered = sorted(lengths)
        median, most_of = (ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 95))
        return cls(ordered[0], median, most_of, ordered[-1])


@dataclass(frozen=True, slots=True)
class Report:
    """One file; places are as in error messages."""

    rows: int
    """Rows that can be used."""
    forms: dict[str, int]
    """Rows by form."""
    alternates: int
    """Rows with an alternate answer."""
    empty: int
    """Rows whose answer or text is empty; they are bad rows."""
    bad: tuple[tuple[str, str], ...]
    """(message, hint) for each row that cannot be used."""
    duplicates: tuple[tuple[str, ...], ...]
    """Groups of rows that are equal when normalised."""
    characters: Spread | None
    """Characters of a usable row, prompt and answer together."""
    encoded: TokenizedRows | None
    """None without a tokenizer."""
    notes: tuple[str, ...]
    """How the file was read, where that is not obvious."""

    @property
    def tokens(self) -> Spread | None:
        """Tokens of a row, with its template, before it is cut."""
        return Spread.of(self.encoded.lengths) if self.encoded else None

    @property
    def answer_tokens(self) -> Spread | None:
        """Labelled tokens of an encoded row."""
        return (
            Spread.of(
                [sum(label != IGNORED for label in row.labels[1:]) for row in self.encoded.rows]
            )
            if self.encoded
            else None
        )


@dataclass(frozen=True, slots=True)
class PromptSample:
    """One row as tokens."""

    where: str
    parts: tuple[tuple[str, bool], ...]
    """(text, whether its tokens count): the parts of the decoded row, with special tokens."""
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    whole: int
    """Tokens of the whole row; `input_ids` are its first ones, or its first window."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The results for one file, or for a forget and a retain file."""

    reports: tuple[tuple[str, Report], ...]
    """(location, report), in the given order."""
    in_both: tuple[tuple[str, str], ...]
    """Rows of the first file that are in the second one too: (place, place)."""
    all_in_both: bool
    """Whether all rows of one file are in the other."""
    same_prompt: tuple[tuple[str, str], ...]
    """Rows whose prompt has another answer in the second file."""
    sample: PromptSample | None
    """None without a tokenizer, or if the chosen row cannot be encoded: then it is a bad row."""


def check_files(
    locations: Sequence[str],
    mapping: Mapping[str, str],
    tokenizer: Any | None,
    limit: Limit,
    *,
    delimiter: str | None = None,
    overlap: int | None = None,
    pack: bool = False,
    prompting: Prompting = PLAIN,
    vocabulary: int | None = None,
    row: int = 1,
) -> Findings:
    """Check one file, or two files that must not overlap.

    Args:
        locations: one or two files, as `read_rows` takes them.
        mapping: field → column, for both; the second file needs no alternates.
        tokenizer: the model's; None = report nothing about tokens.
        limit: the most tokens in a row.
        delimiter: the delimiter of a CSV file; None = detect it from the header.
        overlap: see `windows.split`.
        pack: see `windows.pack`.
        prompting: the system prompt and template variables of every pair and chat.
        vocabulary: rows of the model's embedding; None = unknown.
        row: the number of the first file's usable row to show, from 1.

    Raises:
        BadDataError: a file as a whole cannot be read.
        UsageError: there is no such row, or the overlap does not fit.
    """
    scans = [
        scan_rows(location, for_retain(mapping) if place else mapping, delimiter=delimiter)
        for place, location in enumerate(locations)
    ]
    rows = scans[0].rows
    if rows and row > len(rows):
        raise UsageError(
            f"--row {row}: the file has {len(rows)} usable rows",
            f"choose a row from 1 to {len(rows)}",
        )
    others = scans[1].rows if len(scans) > 1 else []
    reports = [
        _report(
            scan,
            tokenizer,
            limit.tokens,
            prompting,
            overlap=overlap,
            pack=pack,
            vocabulary=vocabulary,
        )
        for scan in scans
    ]
    sample = (
        _sample(rows[row - 1], tokenizer, limit.tokens, prompting)
        if rows and tokenizer is not None
        else None
    )
    shared = in_both(rows, others)
    whole = bool(shared) and (len(shared) == len(rows) or len(in_both(others, rows)) == len(others))
    return Findings(
        tuple(zip(locations, reports, strict=True)),
        shared,
        whole,
        same_prompt(rows, others),
        sample,
    )


def _report(
    scan: Scan,
    tokenizer: Any | None,
    max_length: int,
    prompting: Prompting,
    *,
    overlap: int | None,
    pack: bool,
    vocabulary: int | None,
) -> Report:
    refused: list[BadDataError] = []
    encoded = None
    if tokenizer is not None:
        encoded = encode_rows(
            scan.rows,
            tokenizer,
            max_length,
            overlap=overlap,
            pack=pack,
            prompting=prompting,
            vocabulary=vocabulary,
            refused=refused,
        )
    bad = [error.as_error() for error in scan.bad] + refused
    return Report(
        rows=len(scan.rows) - len(refused),
        forms=dict(Counter(row.form for row in scan.rows)),
        alternates=sum(row.alternate is not None for row in scan.rows),
        empty=sum(error.empty for error in scan.bad),
        bad=tuple((error.message, error.hint or "") for error in bad),
        duplicates=duplicates(scan.rows),
        characters=Spread.of([sum(map(len, contents(row))) for row in scan.rows]),
        encoded=encoded,
        notes=scan.notes,
    )


def _sample(row: Row, tokenizer: Any, max_length: int, prompting: Prompting) -> PromptSample | None:
    try:
        whole = encode_whole(row, tokenizer, prompting)
        shown = cut(whole, row.where, max_length)
    except BadDataError:
        return None
    return PromptSample(
        row.where, _runs(shown, tokenizer), shown.input_ids, shown.labels, len(whole.input_ids)
    )


def _runs(encoded: TokenizedRow, tokenizer: Any) -> tuple[tuple[str, bool], ...]:
    """The decoded parts of a row that count and do not count, in turn.

    Each is decoded with all that precedes it: a token's text may depend on it (leading spaces).
    """
    # No token predicts the first one, so it does not count.
    counts = [False] + [label != IGNORED for label in encoded.labels[1:]]
    ends = [i for i in range(1, len(counts)) if counts[i] != counts[i - 1]] + [len(counts)]
    runs, before = [], ""
    for end in ends:
        text = str(
            tokenizer.decode(
                encoded.input_ids[:end],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
        )
        runs.append((text.removeprefix(before), counts[end - 1]))
        before = text
    return tuple(runs)
