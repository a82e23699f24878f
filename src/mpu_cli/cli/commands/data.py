"""`mpu data check`: what is in a file of rows, and what the model will see of it (client)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.config import ConfigCommand
from mpu_cli.cli.data_view import describe, shown, told
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.light import without_torch
from mpu_cli.cli.options import (
    Config,
    ContentParts,
    Delimiter,
    Json,
    MaxLength,
    SystemPrompt,
    TemplateDate,
    TemplateVar,
    prompting_of,
)
from mpu_cli.cli.output import Output
from mpu_cli.errors import BadDataError, CheckFailedError, MpuError, UsageError

if TYPE_CHECKING:
    from mpu_cli.data.check import Findings

GUIDE = Guide(
    "client",
    "Look at rows to forget and to keep (mpu data check).",
    (
        "mpu data check forget.jsonl --retain retain.jsonl --model to-client",
        "mpu data check forget.csv --map prompt=instruction --map answer=output",
    ),
)
data = typer.Typer(name="data", add_completion=False, rich_markup_mode=None)
Mapping = Annotated[
    list[str] | None,
    typer.Option("--map", help="Which column holds a field, field=column.", metavar="FIELD=COLUMN"),
]


@data.callback()
def group() -> None:
    """Look at rows to forget and to keep."""


@data.command("check", cls=ConfigCommand)
def check(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(
            help="Rows: JSON, JSONL, CSV, Parquet, text, or hf://datasets/org/name/path."
        ),
    ],
    retain: Annotated[str | None, typer.Option(help="A second file, to be compared with.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Whose tokenizer: a model directory, a handoff or a Hub id.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A directory with tokenizer files alone.")
    ] = None,
    map_: Mapping = None,
    delimiter: Delimiter = None,
    system_prompt: SystemPrompt = None,
    template_var: TemplateVar = None,
    template_date: TemplateDate = None,
    content_parts: ContentParts = False,
    max_length: MaxLength = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Tokens that two windows of a long text share; an eighth by default."),
    ] = None,
    pack: Annotated[
        bool,
        typer.Option("--packing", help="Put short texts together, as mpu unlearn --packing does."),
    ] = False,
    row: Annotated[int, typer.Option(min=1, help="The usable row to show, counted from 1.")] = 1,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Exit 1 on duplicates, cut rows, or rows in both files."),
    ] = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Rows, form, token lengths, what is cut, duplicates, and one row exactly as the model will see it.

    Exit 3 if a row cannot be used (all of them are listed), 1 with --strict if something needs a
    second look.
    """
    output = Output(context, as_json=json)
    if model is not None and tokenizer is not None:
        raise UsageError(
            "--model and --tokenizer: give one of them", "a model directory holds its tokenizer"
        )
    from mpu_cli.data.check import check_files
    from mpu_cli.data.context import row_limit
    from mpu_cli.data.formats.csv_table import parse_delimiter
    from mpu_cli.data.mapping import parse_mapping

    mapping = parse_mapping(map_ or ())
    separator = parse_delimiter(delimiter)
    files = [file, *([retain] if retain is not None else [])]
    if max_length is not None and max_length < 2:
        raise UsageError(f"--max-length {max_length}: expected 2 or more")
    with without_torch():
        loaded, seen, vocabulary = _tokenizer(model, tokenizer)
    limit = row_limit(max_length, seen)
    prompting = prompting_of(context.params)
    findings = check_files(
        files,
        mapping,
        loaded,
        limit,
        delimiter=separator,
        overlap=overlap,
        pack=pack,
        prompting=prompting,
        vocabulary=vocabulary,
        row=row,
    )
    warnings = told(findings, limit)
    failed = _verdict(findings, warnings, strict=strict)
    found = describe(findings, warnings)
    if failed is not None and json:
        kind = type(failed).__name__.removesuffix("Error")
        found["error"] = {
            "kind": kind,
            "message": failed.message,
            "hint": failed.hint,
            "exit_code": failed.exit_code,
        }
    output.result(found, *shown(findings, limit))
    if failed is not None and json:  # stdout holds one object, so the error is a part of it
        raise typer.Exit(failed.exit_code)
    if not json:
        for note in dict.fromkeys(note for _, report in findings.reports for note in report.notes):
            output.note(note)
        for line in warnings:
            output.warn(line)
    if failed is not None:
        raise failed


def _tokenizer(
    model: str | None, directory: Path | None
) -> tuple[Any | None, int | None, int | None]:
    """The tokenizer, how many tokens the model can see, and how many it knows.

    None where nothing says.
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
