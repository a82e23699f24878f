"""`mpu compare`: records of evaluations side by side (both parties)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import All, Config, Json, OutputFormat
from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError

GUIDE = Guide(
    "both",
    "Put records of evaluations side by side, with verdicts.",
    ("mpu compare before after",),
)


def compare(
    context: typer.Context,
    records: Annotated[
        list[Path],
        typer.Argument(help="Two or more records; the first is the one to compare with."),
    ],
    before: Annotated[
        Path | None,
        typer.Option(
            help="Record of the model before unlearning: the margin is a share of what changed.",
            metavar="RECORD",
        ),
    ] = None,
    retain_record: Annotated[
        Path | None,
        typer.Option(help="Record of a model that never saw the forget set.", metavar="RECORD"),
    ] = None,
    share: Annotated[
        float,
        typer.Option(help="The margin as a share of the first record's change since --before."),
    ] = 0.01,
    margin: Annotated[
        float | None, typer.Option(help="The margin itself instead, for every metric alike.")
    ] = None,
    resamples: Annotated[
        int,
        typer.Option(
            help="Random weightings of the rows that the intervals are made of.", min=1000
        ),
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="Of these weightings.", min=0)] = 0,
    all_: All = False,
    output_format: OutputFormat = "text",
    json: Json = False,
    config: Config = None,
) -> None:
    """Differences with 95 % intervals, and for each a verdict.

    equivalent, different, or not enough data.

    Equivalent: two one-sided tests at 5 % put the difference within the margin, by default 1 % of
    what unlearning changed in the first record. The intervals are over rows, and allow for rows
    that were not seen: a margin of .05 takes 59 rows or more, one of .01 takes 299. They say
    nothing of other training seeds.
    """
    output = Output(context, as_json=json)
    from mpu_cli.cli.compare_view import compared, headline
    from mpu_cli.cli.figures import check_output_format, print_figures
    from mpu_cli.evaluation.compare import compare as run
    from mpu_cli.evaluation.compare import labels
    from mpu_cli.evaluation.records.read import read_record

    check_output_format(output_format, json)
    if len({str(path) for path in records}) != len(records):
        raise UsageError("the same record is given twice", "give different ones")
    read = dict(
        zip(
            labels([str(path) for path in records]),
            (read_record(path) for path in records),
            strict=True,
        )
    )
    found = run(
        read,
        before=read_record(before) if before else None,
        retain_record=read_record(retain_record) if retain_record else None,
        share=share,
        margin=margin,
        seed=seed,
        resamples=resamples,
    )
    brief = "\n".join(map(headline, found.pairs))
    print_figures(
        output, output_format, found.content(), *compared(found, output_format, every=all_), brief
    )
