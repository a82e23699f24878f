"""`mpu audit trace`: which copy a found model came from (server)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.audit.gates import GateSettings, require_names
from mpu_cli.audit.trace.settings import TraceSettings
from mpu_cli.cli.audit_page import PageSettings
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.gated import print_gated
from mpu_cli.cli.options import SECRET, use_one_thread
from mpu_cli.cli.output import Output, facts, share
from mpu_cli.option import REQUIRED, option

if TYPE_CHECKING:
    from mpu_cli.audit.trace.open_case import OpenCase
    from mpu_cli.audit.trace.suspects import Suspect
    from mpu_cli.audit.trace.trace import Named, TraceResult

NUMBERS = (
    "copies_named",
    "largest_z",
    "largest_share",
    "threshold",
    "expected_z",
    "least_share",
    "decided",
)
_LEAST_SHOWN = 1e-6
_REMOVED = {
    "mean": "the mean",
    "model": "what the model explains",
    "base": "what the base explains",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceOptions(Job):
    """What `mpu audit trace` was asked to do."""

    leaked: str = option(
        REQUIRED,
        "Model that was found: a directory, one safetensors file of it, or a Hub id.",
        panel="Model",
        flag="LEAKED",
    )
    secret: Path = option(
        REQUIRED,
        "Directory of the lineage's secret.",
        metavar="DIR",
        environment=SECRET,
    )
    model: str | None = option(
        None,
        "A model of the lineage: with it, much smaller traces can be found.",
        metavar="MODEL",
    )
    base: str | None = option(
        None,
        "Public model that the lineage's models were fine-tuned from.",
        shown="the one that the secret remembers",
        metavar="BASE",
    )
    settings: TraceSettings
    page: PageSettings
    gates: GateSettings


@command()
def trace(job: TraceOptions, output: Output) -> None:
    """Name the client, the round and the copy that a found model came from, or none.

    The noise of every recorded copy is drawn again from the secret and sought in the found model,
    as it is and with each copy's reparameterization undone. Copies are also found after they were
    fine-tuned, rounded to few bits, averaged or merged. A model that came from no copy is named
    with the stated probability at most.
    """
    require_names(job.gates.fail_if, NUMBERS)
    from mpu_cli.audit.trace.open_case import open_case
    from mpu_cli.audit.trace.trace import trace as run
    from mpu_cli.checkpoint.locate import locate

    use_one_thread()
    file = Path(job.leaked)
    job.page.check(job.secret, file)
    with output.progress("reading the models") as progress:
        opened = open_case(
            file if file.is_file() else locate(job.leaked).path,
            job.secret,
            locate(job.model).path if job.model is not None else None,
            locate(job.base).path if job.base is not None else None,
            job.settings,
            progress,
        )
        [result] = run([opened.found], opened.case, progress)
    warnings = _warnings(opened, result)
    for line in warnings:
        output.warn(line)
    sentences, numbers = _sentences(job.leaked, result), _numbers(result)
    sure = _facts(job.settings, result)

    def write(failures: Sequence[str]) -> None:
        from mpu_cli.report.gates import Outcome
        from mpu_cli.report.trace import trace_page

        gates = [gate.text for gate in job.gates.fail_if]
        job.page.write(
            output,
            lambda outcome: trace_page(job.leaked, result, sentences, sure, outcome),
            Outcome(numbers, gates, failures, warnings),
        )

    print_gated(
        output,
        _data(job, opened, result),
        *sentences,
        "",
        facts(sure),
        gates=job.gates.fail_if,
        numbers=numbers,
        brief=" ".join(line.strip() for line in sentences[: 1 + len(result.named)]),
        write=write,
    )


def _sentences(leaked: str, result: TraceResult) -> list[str]:
    if result.named:
        lines = [f"{leaked} came from:"]
        lines += [f"  {_named(item)}" for item in result.named]
        if any(item.equals for item in result.named):
            lines.append("(these copies lie on one line: the noise alone cannot tell them apart)")
        return lines
    copies = f"the {result.suspects} copies" if result.suspects > 1 else "the copy"
    left = result.undecided
    if left == result.suspects:
        lines = [f"{leaked}: cannot be decided"]
    else:
        copies = f"{result.suspects - left} of {copies}" if left else copies
        lines = [
            f"{leaked} came from none of {copies}: the largest z is {result.largest:.1f}, and"
            f" {result.threshold:.1f} would name one"
        ]
    if left:
        lowest, hardest = result.expected[0]
        lines.append(
            f"(undecided for {left}, where even a whole copy has a small z: expected z is"
            f" {lowest:.1f} for {_copy(hardest)}; {result.threshold:.1f} would name it)"
        )
    elif result.least_share <= 1:
        least = max(result.least_share, _LEAST_SHOWN)
        lines.append(f"(a share of {share(least)} of any copy would have been found in it)")
    return lines


def _named(item: Named) -> str:
    text = (
        f"{_copy(item.suspect)}: z = {item.z:.1f}, share {item.share:.2f} ± {2 * item.error:.2f},"
        f" {_frame(item)}"
    )
    if item.equals:
        text += f" (or {', '.join(other.copy for other in item.equals)}, with another share)"
    return text


def _copy(suspect: Suspect) -> str:
    date = f", {suspect.date[:10]}" if suspect.date else ""
    return (
        f"{suspect.copy} of handoff {suspect.handoff} (client {suspect.client}, round"
        f" {suspect.round}{date})"
    )


def _frame(item: Named) -> str:
    if item.undone is None:
        return "not reparameterized"
    if item.undone == item.suspect:
        return "reparameterized as it was published"
    return f"reparameterized as {item.undone.copy} of handoff {item.undone.handoff[:12]}…"


def _facts(settings: TraceSettings, result: TraceResult) -> dict[str, str]:
    return {
        "threshold": (
            f"z = {result.threshold:.2f}, for a false-positive rate of"
            f" {settings.false_positive_rate:g} over {result.hypotheses:,} tests"
        ),
        "expected z": f"at least {result.expected[0][0]:.1f} for an unmodified copy",
        "removed first": ", ".join(_REMOVED[name] for name in result.centre),
        "read": (
            f"{result.entries:,} entries in {result.layers} of {result.of_layers} groups of tensors"
        ),
    }


def _warnings(opened: OpenCase, result: TraceResult) -> list[str]:
    lines = []
    if opened.test_secret:
        lines.append("this secret was prepared by a test (origin: test): it hides nothing")
    if opened.silent:
        count = len(opened.silent)
        lines.append(
            f"{count} handoff{'s' * (count > 1)} of this lineage carr{'ies' if count == 1 else 'y'}"
            " no noise (κ = 0): a copy of one cannot be traced"
        )
    if result.verdict == "undecided":
        missing = [
            f"--{name}" for name in ("model", "base") if name not in opened.case.centre.names
        ]
        rest = [*missing, *([] if result.whole else ["--layers all"])]
        if rest:
            lines.append(f"more can be decided with {' and '.join(rest)}")
    return lines


def _numbers(result: TraceResult) -> dict[str, float | None]:
    shares = [item.share for item in result.named]
    return {
        "copies_named": float(len(result.named)),
        "largest_z": max([result.largest, *(item.z for item in result.named)]),
        "largest_share": max(shares, default=0.0),
        "threshold": result.threshold,
        "expected_z": result.expected[0][0],
        "least_share": result.least_share if result.least_share <= 1 else None,
        "decided": float(result.verdict != "undecided"),
    }


def _data(job: TraceOptions, opened: OpenCase, result: TraceResult) -> dict[str, Any]:
    return {
        "leaked": job.leaked,
        "verdict": result.verdict,
        "named": [
            {
                **_suspect(item.suspect),
                "z": item.z,
                "share": item.share,
                "share_error": item.error,
                "reparameterized_as": None if item.undone is None else _suspect(item.undone),
                "or": [_suspect(other) for other in item.equals],
            }
            for item in result.named
        ],
        "false_positive_rate": job.settings.false_positive_rate,
        "tests": result.hypotheses,
        "copies": result.suspects,
        "centre": list(result.centre),
        "base": None if opened.base is None else str(opened.base),
        "entries": result.entries,
        "without_noise": [record.id for record in opened.silent],
        "warnings": _warnings(opened, result),
    }


def _suspect(suspect: Suspect) -> dict[str, Any]:
    return {
        "copy": suspect.copy,
        "handoff": suspect.handoff,
        "client": suspect.client,
        "round": suspect.round,
        "date": suspect.date or None,
    }
