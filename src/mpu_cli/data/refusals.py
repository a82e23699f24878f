"""A list of refusals as alternate answers.

DPO towards "I don't know" (TOFU's `idontknow` file, Maini et al. 2401.06121).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpu_cli.data.formats import read_text
from mpu_cli.data.formats.text_file import lines_of
from mpu_cli.data.order import drawn, shuffled
from mpu_cli.data.rows import Row, Tell, ignore, read_rows
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError

_TABLES = (".csv", ".tsv", ".parquet")
_HINT = "write one refusal a line, or rows with text"


def read_refusals(
    location: str | Path, *, delimiter: str | None = None, tell: Tell = ignore
) -> list[str]:
    """Read refusals: one a line, or rows with `text` in any format that `read_rows` knows.

    Whether a file holds lines or JSON is seen from its first letter: TOFU's own `idontknow.jsonl`
    holds plain lines.

    Raises:
        BadDataError: the file cannot be read, has no refusal, or a row of it has no `text`.
    """
    path = find_data(location)
    if path.suffix.lower() not in _TABLES:
        source, _ = read_text(path)
        if not source.lstrip().startswith(("{", "[")):
            lines = [line.strip() for line in lines_of(source) if line.strip()]
            if not lines:
                raise BadDataError(f"{path.name} has no refusals", _HINT)
            return lines
    rows = read_rows(path, delimiter=delimiter, tell=tell)
    odd = next((row for row in rows if row.text is None), None)
    if odd is not None:
        raise BadDataError(
            f"{odd.where}: a refusal must be a row with 'text', found {odd.form}", _HINT
        )
    return [(row.text or "").strip() for row in rows]


def with_refusals(
    rows: Sequence[Row], refusals: Sequence[str], seed: int | str, *, independent: bool = False
) -> list[Row]:
    """Deal one refusal to each row as its `alternate`, in place of an alternate of its own.

    Dealt like cards: the list is shuffled, handed out to its end, and shuffled anew, so each
    refusal is used equally often to within one. Or each is drawn alone (`independent`), as
    open-unlearning does. The same seed (a number, or a name) deals the same on every machine.

    Raises:
        BadDataError: a plain text, which has no answer that a refusal could replace; or no
            refusals.
    """
    if not refusals:
        raise BadDataError("the list of refusals is empty", _HINT)
    for row in rows:
        if row.text is not None:
            raise BadDataError(
                f"{row.where}: a text has no answer that a refusal could replace",
                "give prompt and answer, or messages",
            )
    if independent:
        cards = drawn(len(rows), len(refusals), f"refusals/{seed}/independent")
    else:
        deals = -(-len(rows) // len(refusals))
        cards = [
            card
            for deal in range(deals)
            for card in shuffled(len(refusals), f"refusals/{seed}/{deal}")
        ]
    return [replace(row, alternate=refusals[card]) for row, card in zip(rows, cards, strict=False)]
