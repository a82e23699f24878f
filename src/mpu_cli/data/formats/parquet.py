"""Parquet, with pyarrow, an optional extra; only the wanted columns are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mpu_cli.data.formats.table import Table
from mpu_cli.errors import BadDataError


def read_parquet(path: Path, wanted: Collection[str]) -> Table:
    """Read the wanted columns as Python values; a row's place is its number.

    Raises:
        BadDataError: pyarrow is not installed, the file is not Parquet or is broken, or two columns
            have one name.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise BadDataError(
            f"{path.name}: Parquet needs pyarrow, which is not installed",
            'pip install "mpu-cli[parquet]", or save the rows as JSON Lines',
        ) from None
    try:
        with parquet.ParquetFile(path) as file:
            columns = tuple(file.schema_arrow.names)
            _refuse_twins(columns, path)
            chosen = [column for column in columns if column in wanted]
            # pyarrow reads a dotted name as a path into a struct, so only names of the schema's top
            # level are passed.
            table = file.read(columns=chosen) if chosen else None
            count = file.metadata.num_rows
            values: list[dict[str, Any]] = table.to_pylist() if table is not None else [{}] * count
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        hint = "write it again, or save the rows as JSON Lines"
        raise BadDataError(f"{path.name}: cannot be read as Parquet ({reason})", hint) from None
    return Table(
        [(f"{path.name} row {number}", value) for number, value in enumerate(values, start=1)],
        columns,
    )


def _refuse_twins(columns: tuple[str, ...], path: Path) -> None:
    twice = next((column for column, count in Counter(columns).items() if count > 1), None)
    if twice is not None:
        raise BadDataError(f"{path.name}: the column {twice!r} occurs twice", "rename one of them")
