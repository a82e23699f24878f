"""`mpu audit update`: what the server can learn from an update, before it is handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.audit.gates import GateSettings, require_names
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.audit_page import PageSettings
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.gated import print_gated
from mpu_cli.cli.output import Output, table
from mpu_cli.data.prompting import Prompting
from mpu_cli.data.settings import ColumnSettings, WindowSettings
from mpu_cli.errors import CheckFailedError, UsageError
from mpu_cli.modeling.device import Device
from mpu_cli.option import REQUIRED, option, same_option

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.audit.update.finding import Finding

SETS = ("forget", "decoys", "control", "cover")
NUMBERS = (
    "membership_loss_change",
    "membership_gradient_cosine",
    "cover_loss_change",
    "cover_gradient_cosine",
    "token_precision",
    "token_recall",
    "steps",
    "rows",
)
"""What a condition of `--fail-if` may name; those of cover rows need --cover."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditUpdateOptions(Job):
    """What `mpu audit update` was asked to do."""

    update: Path = option(
        REQUIRED, "Update: a directory or a tar file.", panel="Model", flag="UPDATE"
    )
    handoff: Path = option(
        REQUIRED, "Handoff that it was made from: a directory or a tar file.", flag="HANDOFF"
    )
    copy: int = option(1, "Number of the copy to attack.", metavar="K", least=1)
    forget: str | None = option(
        None, "Rows that were forgotten (needed).", panel="Data", metavar="FILE"
    )
    decoys: str | None = option(
        None,
        "Rows of the same kind that were neither forgotten nor trained on (needed).",
        metavar="FILE",
    )
    control: str | None = option(
        None,
        "More such rows, to compare with the decoys.",
        shown="one half of the decoys against the other",
        metavar="FILE",
    )
    cover: str | None = option(
        None, "Cover rows that were forgotten along with them.", metavar="FILE"
    )
    max_rows: int = option(
        200, "Number of rows of each set that the attacks use, drawn at random.", least=5
    )
    columns: ColumnSettings
    prompting: Prompting
    max_length: int | None = same_option(WindowSettings, "max_length")
    page: PageSettings
    gates: GateSettings
    device: Device = option("auto", "Device that computes.", panel="General")


@command()
def update(job: AuditUpdateOptions, output: Output) -> None:
    """Measure what the server can learn about your rows from an update.

    It runs the server's attacks on your own files: no secret is needed. Decoys should be rows that
    the server could confuse with yours: the model knows them equally well, and nobody trained on
    them in this update. Exit code 1 means that the update holds text of your rows, or that a
    condition of --fail-if holds.
    """
    given = {name: file for name in SETS if (file := getattr(job, name)) is not None}
    _require(given)
    require_names(job.gates.fail_if, NUMBERS)
    _require_cover(job)
    job.page.check(job.update, job.handoff)
    with output.progress("reading rows") as progress:  # the imports take seconds
        from mpu_cli.audit.update.row_sets import read_sets

        rows = read_sets(
            given, job.columns.mapping, delimiter=job.columns.delimiter, tell=output.note
        )
        from mpu_cli.audit.update.audit import UpdateAudit, audit_update
        from mpu_cli.modeling.device import choose_device

        device = choose_device(job.device)
        with unpacked(output, job.update, job.handoff) as [changed, published]:
            audit = UpdateAudit(
                changed,
                published,
                job.update,
                rows,
                tuple(given.values()),
                job.copy,
                job.max_rows,
                job.max_length,
                job.prompting,
                device,
            )
            findings = audit_update(audit, progress)
    _print(job, output, findings, {name: len(part) for name, part in rows.by_name().items()})


def _require(given: dict[str, str]) -> None:
    if "forget" not in given:
        raise UsageError("--forget is missing", "give the rows that were forgotten")
    if "decoys" not in given:
        raise UsageError(
            "--decoys is missing",
            "give rows of the same kind that were neither forgotten nor trained on: an attack that"
            " recognises every row has learned nothing",
        )


def _require_cover(job: AuditUpdateOptions) -> None:
    """Refuse a condition on cover rows without any, before the attacks run."""
    for gate in job.gates.fail_if:
        for name in gate.names:
            if job.cover is None and name.startswith("cover_"):
                raise UsageError(
                    f"--fail-if {gate.text}: {name} needs --cover",
                    "give --cover FILE, the cover rows that were forgotten along with them",
                )


def _print(
    job: AuditUpdateOptions, output: Output, findings: Sequence[Finding], rows: dict[str, int]
) -> None:
    areas = [item for item in findings if item.interval is not None]
    data: dict[str, Any] = {
        "update": str(job.update),
        "handoff": str(job.handoff),
        "copy": job.copy,
        "rows": rows,
        "findings": {finding.key: finding.content() for finding in findings},
    }
    body: list[RenderableType] = [
        table(
            "what the server can test",
            "measured",
            "95 % interval",
            "control",
            rows=[_cells(item) for item in areas],
        ),
        "",
        *(_words(item) for item in findings),
        "",
        *_next(job),
    ]
    brief = "; ".join(f"{item.what} {item.measured}" for item in areas)
    numbers = _numbers(findings)

    def write(failures: Sequence[str]) -> None:
        from mpu_cli.report.gates import Outcome
        from mpu_cli.report.update_audit import update_audit_page

        gates = [gate.text for gate in job.gates.fail_if]
        job.page.write(
            output,
            lambda outcome: update_audit_page(findings, rows, outcome),
            Outcome(numbers, gates, failures),
        )

    if (found := _strings(job, findings)) is not None:
        # Whatever the conditions are, and whether or not their numbers were measured.
        # The page can be mailed: it does not repeat the text.
        write([f"{job.update}: holds text of your rows, or a name of yours"])
        output.refuse(found, data, *body)
    print_gated(
        output,
        data,
        *body,
        gates=job.gates.fail_if,
        numbers=numbers,
        brief=brief,
        write=write,
    )


def _strings(job: AuditUpdateOptions, findings: Sequence[Finding]) -> CheckFailedError | None:
    """The error for an update that holds text of the rows."""
    found = next((item for item in findings if item.numbers.get("found")), None)
    if found is None:
        return None
    remedy = (
        "make the tar file with --pack of mpu unlearn, mpu diff or mpu mask update"
        if job.update.is_file()
        else "make the update again with mpu unlearn or mpu diff"
    )
    return CheckFailedError(f"{job.update}: {found.measured}", remedy)


def _numbers(findings: Sequence[Finding]) -> dict[str, float | None]:
    """The numbers of `--fail-if`; None for what was not measured.

    Of several tensors of token rows the one with the highest precision counts.
    """
    numbers: dict[str, float | None] = dict.fromkeys(NUMBERS)
    for item in sorted(findings, key=lambda item: item.gated.get("token_precision", 0.0)):
        numbers |= {name: value for name, value in item.gated.items() if name in numbers}
    return numbers


def _cells(item: Finding) -> tuple[str, ...]:
    low, high = item.interval or (0.0, 1.0)
    return item.what, item.measured, f"{low:.3f} – {high:.3f}", item.control or "–"


def _words(item: Finding) -> str:
    measured = "" if item.interval is not None else f" {item.measured}."
    return f"{item.what}:{measured} {item.meaning}"


def _next(job: AuditUpdateOptions) -> list[str]:
    lines = ["AUC .5 tells the server nothing, 1 everything; the control must be near .5."]
    if job.cover is None:
        lines.append(
            "To hide your rows among others, forget cover rows along with them: mpu unlearn"
            " --cover FILE, then mpu audit update --cover FILE."
        )
    return lines
