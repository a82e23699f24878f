"""`mpu compare`: compare evaluation records (both parties)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import OutputFormat, Shared
from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.option import REQUIRED, option, same_option

GUIDE = Guide(
    "both",
    "Compare evaluation records, and print a verdict for each number.",
    ("mpu compare before after",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareOptions(Job):
    """What `mpu compare` was asked to do."""

    records: tuple[Path, ...] = option(
        REQUIRED,
        "Two or more records; the first one is compared with each of the others.",
        panel="Data",
        flag="RECORDS",
        metavar="RECORD…",
        repeated=True,
    )
    before: Path | None = same_option(Shared, "before")
    retain_record: Path | None = same_option(Shared, "retain_record")
    settings: CompareSettings
    all: bool = same_option(Shared, "all")
    output_format: OutputFormat = same_option(Shared, "output_format")


@command()
def compare(job: CompareOptions, output: Output) -> None:
    """Print differences with 95 % intervals, and a verdict for each.

    The verdict is equivalent, different, or not enough data. Equivalent means that two one-sided
    tests at 5 % put the difference within the margin, by default 1 % of what unlearning changed in
    the first record. The intervals also cover rows that were not measured: a margin of .05 needs
    at least 59 rows, one of .01 at least 299. They do not cover other training seeds.
    """
    from mpu_cli.cli.compare_view import compared, headline
    from mpu_cli.cli.figures import check_output_format, print_figures
    from mpu_cli.evaluation.compare import compare as run
    from mpu_cli.evaluation.compare import labels
    from mpu_cli.evaluation.records.read import read_record

    check_output_format(job.output_format, output.as_json)
    paths, settings = [str(path) for path in job.records], job.settings
    if len(set(paths)) != len(paths):
        raise UsageError("the same record is given twice", "give different ones")
    records = {
        label: read_record(path) for label, path in zip(labels(paths), job.records, strict=True)
    }
    comparison = run(
        records,
        before=read_record(job.before) if job.before else None,
        retain_record=read_record(job.retain_record) if job.retain_record else None,
        share=settings.share,
        margin=settings.margin,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    print_figures(
        output,
        job.output_format,
        comparison.content(),
        *compared(comparison, job.output_format, every=job.all),
        "\n".join(map(headline, comparison.pairs)),
    )
