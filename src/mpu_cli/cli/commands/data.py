"""`mpu data check`: what is in a file of rows, and what the model will see of it (client)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mpu_cli.cli.config import ConfigCommand
from mpu_cli.cli.data_view import describe, shown, warnings_of
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.light import without_torch
from mpu_cli.cli.output import Output
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.settings import ColumnSettings, WindowSettings
from mpu_cli.errors import BadDataError, CheckFailedError, MpuError, UsageError
from mpu_cli.option import REQUIRED, option

if TYPE_CHECKING:
    from mpu_cli.data.check import Findings

GUIDE = Guide(
    "client",
    "Check the rows to forget and to keep (mpu data check).",
    (
        "mpu data check forget.jsonl --retain retain.jsonl --model to-client",
        "mpu data check forget.csv --map prompt=instruction --map answer=output",
    ),
)
data = typer.Typer(name="data", add_completion=False, rich_markup_mode=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataCheckOptions(Job):
    """What `mpu data check` was asked to do."""

    file: str = option(
        REQUIRED,
        "Rows: JSON, JSONL, CSV, Parquet or text, or hf://datasets/org/name/path.",
        panel="Data",
        flag="FILE",
    )
    retain: str | None = option(None, "Second file, to compare with the first.", metavar="FILE")
    model: str | None = option(
        None,
        "Model directory, handoff or Hub id whose tokenizer to use.",
        panel="Model",
        metavar="MODEL",
    )
    tokenizer: Path | None = option(None, "Directory with tokenizer files only.", metavar="DIR")
    columns: ColumnSettings
    prompting: Prompting
    windows: WindowSettings
    row: int = option(1, "Number of the usable row to print, from 1.", panel="Output", least=1)
    strict: bool = option(
        False,
        "Exit 1 on duplicates, cut rows, or rows in both files.",
    )


@data.callback()
def group() -> None:
    """Check the rows to forget and to keep."""


@data.command("check", cls=ConfigCommand)
@command()
def check_rows(job: DataCheckOptions, output: Output) -> None:
    """Print rows, form, token lengths, cuts, duplicates, and one row exactly as the model sees it.

    Exit code 3 means that a row cannot be used (all of them are listed), 1 with --strict that
    something needs a second look.
    """
    if job.model is not None and job.tokenizer is not None:
        raise UsageError(
            "--model and --tokenizer: give one of them", "a model directory holds its tokenizer"
        )
    from mpu_cli.data.check import check_files
    from mpu_cli.data.context import row_limit

    with without_torch():
        tokenizer, context, vocabulary = _tokenizer(job.model, job.tokenizer)
    limit = row_limit(job.windows.max_length, context)
    findings = check_files(
        [job.file, *([job.retain] if job.retain is not None else [])],
        job.columns.mapping,
        tokenizer,
        limit,
        delimiter=job.columns.delimiter,
        overlap=job.windows.overlap,
        pack=job.windows.pack,
        prompting=job.prompting,
        vocabulary=vocabulary,
        row=job.row,
    )
    warnings = warnings_of(findings, limit)
    failed = _verdict(findings, warnings, strict=job.strict)
    content = describe(findings, warnings)
    if failed is not None and output.as_json:
        output.refuse(failed, content)
    output.result(content, *shown(findings, limit))
    if not output.as_json:
        for note in dict.fromkeys(note for _, report in findings.reports for note in report.notes):
            output.note(note)
        for line in warnings:
            output.warn(line)
    if failed is not None:
        raise failed


def _tokenizer(
    model: str | None, directory: Path | None
) -> tuple[Any | None, int | None, int | None]:
    """The tokenizer, the length of the model's context and the size of its vocabulary.

    Each is None where nothing states it.
    """
    if model is None and directory is None:
        return None, None, None
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.data.context import context_length
    from mpu_cli.modeling.tokenizer import load_config, load_tokenizer

    if directory is not None:
        return load_tokenizer(directory), None, None
    place = Path(str(model))
    # Every copy of a handoff has the same tokenizer.
    place = place / "copy-1" if is_bundle(place) else locate(str(model)).path
    config = load_config(place)
    return (
        load_tokenizer(place),
        context_length(config.to_dict()),
        config.get_text_config().vocab_size,
    )


def _verdict(findings: Findings, warnings: list[str], *, strict: bool) -> MpuError | None:
    bad = [error for report in dict(findings.reports).values() for error in report.bad]
    if bad:
        message, hint = bad[0]
        return BadDataError(
            message if len(bad) == 1 else f"{len(bad)} rows cannot be used, the first: {message}",
            hint,
        )
    if strict and warnings:
        return CheckFailedError(
            f"--strict: {len(warnings)} warning(s)", "leave --strict out to accept them"
        )
    return None
