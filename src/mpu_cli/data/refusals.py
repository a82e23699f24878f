"""A list of refusals as alternate answers, for DPO towards "I don't know".

TOFU's `idontknow` file is such a list (Maini et al. 2401.06121).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mpu_cli.data.formats import read_text
from mpu_cli.data.formats.text_file import lines_of
from mpu_cli.data.order import independent_numbers, shuffled
from mpu_cli.data.rows import Row, Tell, ignore, read_rows
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError

_TABLES = (".csv", ".tsv", ".parquet")
_HINT = "write one refusal on each line, or rows with text"


def read_refusals(
    location: str | Path, *, delimiter: str | None = None, tell: Tell = ignore
) -> list[str]:
    """Read refusals: one on each line, or rows with `text` in any format of `read_rows`.

    The first letter decides between lines and JSON, since TOFU's `idontknow.jsonl` holds lines.

    Raises:
        BadDataError: the file cannot be read, has no refusal, or has a row without `text`.
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
    wrong = next((row for row in rows if row.text is None), None)
    if wrong is not None:
        raise BadDataError(
            f"{wrong.where}: a refusal must be a row with 'text', found {wrong.form}", _HINT
        )
    return [(row.text or "").strip() for row in rows]


def with_refusals(
    rows: Sequence[Row], refusals: Sequence[str], seed: int | str, *, independent: bool = False
) -> list[Row]:
    """Give each row one refusal as its `alternate`, in place of an alternate of its own.

    The list is shuffled, used to its end, and shuffled again, so each refusal is used equally often
    to within one. With `independent`, each refusal is chosen independently, as in open-unlearning.
    The same seed (a number or a name) gives the same refusals on every machine.

    Raises:
        BadDataError: a row is a plain text, which has no answer to replace; or there are no
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
        chosen = independent_numbers(len(rows), len(refusals), f"refusals/{seed}/independent")
    else:
        passes = -(-len(rows) // len(refusals))
        chosen = [
            index
            for number in range(passes)
            for index in shuffled(len(refusals), f"refusals/{seed}/{number}")
        ]
    return [replace(row, alternate=refusals[i]) for row, i in zip(rows, chosen, strict=False)]
