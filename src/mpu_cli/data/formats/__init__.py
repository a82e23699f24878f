"""File formats, one file each. Parquet is known by its first bytes, CSV and plain text by their suffix, JSON by neither."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mpu_cli.data.formats.table import Table
from mpu_cli.errors import BadDataError

SUFFIXES = ".jsonl, .json, .csv, .parquet or .txt"
_PARQUET_MAGIC = b"PAR1"


def read_table(path: Path, wanted: Collection[str]) -> Table:
    """Read a file of any format.

    Args:
        path: the file.
        wanted: the columns that may be asked for; Parquet reads no others.

    Raises:
        BadDataError: the file is missing, a directory, unreadable, not UTF-8, or broken as a whole.
    """
    head = _first_bytes(path)
    suffix = path.suffix.lower()
    if head == _PARQUET_MAGIC or suffix == ".parquet":
        from mpu_cli.data.formats.parquet import read_parquet

        return read_parquet(path, wanted)
    source = read_text(path)
    if suffix == ".csv":
        from mpu_cli.data.formats.csv_table import read_csv

        return read_csv(source, path.name)
    if suffix == ".txt":
        return Table([(path.name, {"text": source})] if source.strip() else [])
    from mpu_cli.data.formats.json_rows import read_json

    return read_json(source, path.name)


def read_text(path: Path) -> str:
    """The whole file as text: UTF-8, a byte-order mark dropped, line ends as they are.

    Raises:
        BadDataError: it cannot be read, or is not UTF-8.
    """
    _first_bytes(path)
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadDataError(f"{path.name}:{line}: not UTF-8", f"save it as UTF-8; data files are {SUFFIXES}") from None


def _first_bytes(path: Path) -> bytes:
    try:
        # A pipe cannot be read twice, for its rows and for the recipe's digest; opening one may wait for ever.
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise BadDataError(f"{path}: is a pipe or a device, expected a file", "write the rows to a file first")
        with path.open("rb") as file:
            return file.read(len(_PARQUET_MAGIC))
    except FileNotFoundError:
        raise BadDataError(f"{path}: no such file", f"check the path; data files are {SUFFIXES}") from None
    except IsADirectoryError:
        raise BadDataError(f"{path} is a directory, expected a file", f"name the {SUFFIXES} file in it") from None
    except OSError as error:
        raise BadDataError(f"{path}: cannot be read ({error.strerror})", "check the file's permissions") from None
