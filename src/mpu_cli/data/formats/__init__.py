"""File formats, one module each: detected by content, or by suffix for CSV and plain text."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.data.formats.foreign import HEAD, refuse_foreign
from mpu_cli.data.formats.table import Table
from mpu_cli.data.formats.text_file import decode
from mpu_cli.errors import BadDataError

SUFFIXES = ".jsonl, .json, .csv, .parquet or .txt"
MAX_BYTES = 1 << 30
"""The limit of a file of rows that is read as a whole, that is, of any format but Parquet."""
_FEWER = "keep fewer rows, or save them as Parquet"
_PARQUET_MAGIC = b"PAR1"
_TABLES = {".csv", ".tsv"}


def read_table(path: Path, wanted: Collection[str], delimiter: str | None = None) -> Table:
    """Read a file of any format.

    Args:
        path: the file.
        wanted: the columns that may be used; Parquet reads no others.
        delimiter: the delimiter of a CSV file; None = detect it from the header.

    Raises:
        BadDataError: the file is missing, a directory, unreadable, another program's, in an unknown
            encoding, or broken as a whole.
    """
    head, suffix = _head(path), path.suffix.lower()
    refuse_foreign(path, head)
    if head.startswith(_PARQUET_MAGIC) or suffix == ".parquet":
        from mpu_cli.data.formats.parquet import read_parquet

        return read_parquet(path, wanted)
    source, encoding = read_text(path)
    table = _read(source, path.name, suffix, wanted, delimiter)
    return table if encoding == "UTF-8" else replace(table, notes=(encoding, *table.notes))


def read_text(path: Path) -> tuple[str, str]:
    """The whole file as text, without its byte-order mark, and the name of its encoding.

    Raises:
        BadDataError: it cannot be read, is another program's, or is in an unknown encoding.
    """
    refuse_foreign(path, _head(path))
    return decode(read_file(path, MAX_BYTES, BadDataError, _FEWER), path)


def _read(
    source: str, name: str, suffix: str, wanted: Collection[str], delimiter: str | None
) -> Table:
    from mpu_cli.data.formats.csv_table import looks_like_csv, read_csv
    from mpu_cli.data.formats.json_rows import looks_like_json, read_json

    if suffix not in {*_TABLES, ".txt"}:
        unknown = suffix not in {".json", ".jsonl"}
        return (
            read_csv(source, name, wanted, delimiter)
            if unknown and delimiter is not None
            else read_json(source, name, wanted)
        )
    if looks_like_json(source):
        # Read as a text or as a table, it would be trained on with its braces.
        table = read_json(source, name, wanted)
        return replace(
            table, notes=(f"read as JSON because of its content, not as {suffix}", *table.notes)
        )
    if suffix in _TABLES:
        return read_csv(source, name, wanted, delimiter)
    if looks_like_csv(source, wanted):  # as Excel's "Unicode Text" is
        table = read_csv(source, name, wanted, delimiter)
        return replace(
            table, notes=("read as a table because its first line names columns", *table.notes)
        )
    return Table([(name, {"text": source})] if source.strip() else [])


def _head(path: Path) -> bytes:
    try:
        # A pipe cannot be read twice, for its rows and for the recipe's digest; opening one may
        # block.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadDataError(
                f"{path}: a pipe or a device, expected a file", "write the rows to a file first"
            )
        with path.open("rb") as file:
            return file.read(HEAD)
    except FileNotFoundError:
        raise BadDataError(
            f"{path}: no such file", f"check the path; data files are {SUFFIXES}"
        ) from None
    except IsADirectoryError:
        raise BadDataError(
            f"{path} is a directory, expected a file", f"name the {SUFFIXES} file in it"
        ) from None
    except OSError as error:
        raise BadDataError(
            f"{path}: cannot be read ({error.strerror})", "check the file's permissions"
        ) from None
