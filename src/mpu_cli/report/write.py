"""Write a page, and its numbers as CSV files, each in whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from mpu_cli.checkpoint.staged_file import refuse_existing_file, staged_file
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.errors import UsageError
from mpu_cli.report.page import Page, render
from mpu_cli.report.plot import is_available
from mpu_cli.report.table import PageTable

NO_PLOTS = "the page has no plots: they need matplotlib (pip install 'mpu-cli[report]')"


def check_target(
    out: Path, csv: Path | None, inputs: Iterable[Path], *, force: bool | None
) -> None:
    """Refuse targets before anything is computed.

    Raises:
        UsageError: a target is inside an input or contains one, or the page would be in the
            directory of the CSV files.
        OutputError: a target exists, and not `force`.
    """
    refuse_existing_file(out, force=force)
    given = list(inputs)
    if csv is not None:
        refuse_existing(csv, force=force)
        refuse_nesting(csv, *given)
        if csv.resolve() in (out.resolve(), *out.resolve().parents):
            raise UsageError(
                f"{out}: is inside {csv}, which holds the CSV files alone",
                "write the page beside that directory",
            )
    for path in given:
        if path.resolve() in out.resolve().parents:
            raise UsageError(
                f"{out}: is inside {path}, which the page is about",
                "write the page outside that directory",
            )


def csv_files(page: Page) -> dict[str, PageTable]:
    """The tables of a page by the names of their files; equal names get a number."""
    files: dict[str, PageTable] = {}
    for table in page.tables():
        name, number = f"{table.name}.csv", 2
        while name in files:
            name, number = f"{table.name}-{number}.csv", number + 1
        files[name] = table
    return files


def write_page(
    page: Page, out: Path, csv: Path | None = None, *, force: bool | None = False
) -> list[str]:
    """Write the page, and with `csv` one file for each of its tables.

    `force` is None for a command without --force.

    Returns:
        What the reader should know: that plots are missing.

    Raises:
        OutputError: a target exists, or the disk is full.
    """
    text = render(page)
    with ExitStack() as stack:
        # Both are complete on disk before either gets its name.
        staging = None
        if csv is not None:
            staging = stack.enter_context(Staging(csv, force=bool(force), marked=True))
            with disk_errors(csv):
                for name, table in csv_files(page).items():
                    (staging.path / name).write_text(table.csv(), encoding="utf-8")
        with staged_file(out, force=force) as written:
            written.write(text.encode())
        if staging is not None:
            staging.commit()
    return [NO_PLOTS] if page.plots() and not is_available() else []
