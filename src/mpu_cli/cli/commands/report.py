"""`mpu report`: one self-contained page of a record, a lineage or a run (both parties)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.recognise import RECORD, REPORTED, RUN, SECRET, instead_of, recognise
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import Shared
from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.option import REQUIRED, option, same_option

if TYPE_CHECKING:
    from mpu_cli.evaluation.records.record import Record
    from mpu_cli.report.page import Page

GUIDE = Guide(
    "both",
    "Write a page (HTML) and CSV files of records, a lineage or a run.",
    (
        "# the client, to file that its rows were forgotten: evaluation records, compared",
        "mpu report before after --out forgotten.html --csv forgotten-numbers",
        "# the server: the dossier of its model, with what was measured of it",
        "mpu report server --records before --records after --out dossier.html",
    ),
)
_COMPARING = ("--before", "--retain-record", "--share", "--margin", "--resamples", "--seed")
_OF_LINEAGES = ("--records", "--disclose")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportOptions(Job):
    """What `mpu report` was asked to do."""

    paths: tuple[Path, ...] = option(
        REQUIRED,
        "Evaluation record, or several, of which the first is compared with each of the others; a"
        " secret directory, for the dossier of its lineage; or a directory that mpu run wrote.",
        panel="Data",
        flag="PATHS",
        metavar="PATH…",
        repeated=True,
    )
    before: Path | None = same_option(Shared, "before")
    retain_record: Path | None = same_option(Shared, "retain_record")
    settings: CompareSettings
    records: tuple[Path, ...] = option(
        (),
        "Evaluation record of a model of the lineage, to show beside it; may be given several"
        " times.",
        panel="Data",
        metavar="RECORD",
        repeated=True,
    )
    disclose: bool = option(
        False,
        "Also show the settings of the noise: α or nodes, κ, offset, denoising.",
        panel="Output",
    )
    out: Path = option(REQUIRED, "The page.", panel="Output", metavar="FILE.html")
    csv: Path | None = option(
        None, "Also write every table of the page as a CSV file here.", metavar="DIR"
    )
    texts: bool = option(
        False, "Also show what the model wrote, from a record that was made with --texts."
    )
    force: bool = same_option(Shared, "force")


@command()
def report(job: ReportOptions, output: Output) -> None:
    """Write one self-contained HTML page, and with --csv its numbers as CSV files.

    The page needs no network and no script, and can be mailed or filed. Of evaluation records it
    holds what is needed as evidence that rows were forgotten: digests of model and rows, numbers
    with intervals, verdicts and versions, and no row's text. Of a lineage it holds who got what
    when, what came back, and the exposure so far, and no secret without --disclose. Of a run it
    holds means over seeds with intervals, slopes and leaks. Plots need the extra report (pip
    install 'mpu-cli[report]'); without it a page has its tables alone.
    """
    from mpu_cli.report.numbers import counted
    from mpu_cli.report.write import check_target, csv_files, write_page

    kinds = sorted({_kind(path) for path in job.paths})
    if len(kinds) > 1 or (kinds != [RECORD] and len(job.paths) > 1):
        raise UsageError(
            "several paths must all be evaluation records", "make a page of each of the others"
        )
    [kind] = kinds
    # A run's directory is not checked for foreign files, so its page may lie in it.
    apart = [] if kind == RUN else [*job.paths, *job.records]
    check_target(job.out, job.csv, apart, force=job.force)
    with output.progress("reading"):
        page = {RECORD: _records, SECRET: _lineage, RUN: _run}[kind](job)
        warnings = write_page(page, job.out, job.csv, force=job.force)
    for text in warnings:
        output.warn(text)
    files = [] if job.csv is None else [str(job.csv / name) for name in csv_files(page)]
    data = {
        "kind": page.kind,
        "page": str(job.out),
        "csv": files,
        "plots": 0 if warnings else len(page.plots()),
        "warnings": warnings,
    }
    body = [f"wrote  {job.out}  (open it in a browser; it needs no network)"]
    if job.csv is not None:
        body.append(f"wrote  {counted(len(files), 'CSV file')} in {job.csv}")
    output.result(data, *body, brief=str(job.out))


def _kind(path: Path) -> str:
    if path.is_file() and path.suffix == ".json":
        return RECORD  # another tool's record, or a file of ours: reading it says which
    if path.name == "runs.csv" or os.path.lexists(path / "runs.csv"):
        return RUN
    if path.is_dir() and any(path.glob("*_EVAL.json")):
        return RECORD
    kind = recognise(path).kind
    if kind not in (RECORD, SECRET):
        raise instead_of(path, REPORTED)
    return kind


def _records(job: ReportOptions) -> Page:
    from mpu_cli.evaluation.compare import compare, labels

    _require_no(job, _OF_LINEAGES, "is for a secret directory")
    records = _read(job.paths)
    if len(records) == 1:
        from mpu_cli.report.record import record_page, written_table

        _require_no(job, _COMPARING, "needs two records or more")
        [(path, record)] = records.items()
        return record_page(record, path, written_table(path) if job.texts else None)
    from mpu_cli.evaluation.records.read import read_record
    from mpu_cli.report.comparison import comparison_page

    _require_no(job, ("--texts",), "is for one record")
    names = labels([str(path) for path in records])
    named = dict(zip(names, records.values(), strict=True))
    settings = job.settings
    comparison = compare(
        named,
        before=read_record(job.before) if job.before else None,
        retain_record=read_record(job.retain_record) if job.retain_record else None,
        share=settings.share,
        margin=settings.margin,
        seed=settings.seed,
        resamples=settings.resamples,
    )
    return comparison_page(comparison, named)


def _read(paths: tuple[Path, ...]) -> dict[Path, Record]:
    from mpu_cli.evaluation.records.read import read_record

    if len(set(map(str, paths))) != len(paths):
        raise UsageError("the same record is given twice", "give different ones")
    return {path: read_record(path) for path in paths}


def _lineage(job: ReportOptions) -> Page:
    from mpu_cli.evaluation.compare import labels
    from mpu_cli.report.lineage import lineage_page
    from mpu_cli.report.record import values_of
    from mpu_cli.server.lineage.exposure import ledger
    from mpu_cli.server.lineage.models import Lineage

    _require_no(job, (*_COMPARING, "--texts"), "is for evaluation records")
    [path] = job.paths
    lineage = Lineage.read(path)
    records = _read(job.records)
    names = labels([str(record) for record in records])
    return lineage_page(
        lineage,
        ledger(lineage.handoffs.values()),
        {
            name: (record, values_of(record, place))
            for name, (place, record) in zip(names, records.items(), strict=True)
        },
        disclose=job.disclose,
    )


def _run(job: ReportOptions) -> Page:
    from mpu_cli.report.run import run_page

    _require_no(job, (*_COMPARING, "--texts"), "is for evaluation records")
    _require_no(job, _OF_LINEAGES, "is for a secret directory")
    [path] = job.paths
    return run_page(path if path.is_dir() else path.parent)


def _require_no(job: ReportOptions, flags: tuple[str, ...], why: str) -> None:
    for flag in flags:
        if flag in job.given:
            raise UsageError(f"{flag} {why}", "leave it out")
