"""The page of `mpu audit trace`: which copy a found model came from, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mpu_cli.report.gates import Outcome, gates_section
from mpu_cli.report.page import Facts, Page, Paragraph, Section
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.audit.trace.trace import Named, TraceResult

_READ = (
    "z is how many standard deviations the noise of a copy stands out in the found model: a model"
    " that came from no copy passes the threshold with the stated probability at most. Share is how"
    " much of the copy's noise the found model has: 1 is the copy itself, .5 an average of two."
)


def trace_page(
    leaked: str,
    result: TraceResult,
    sentences: Sequence[str],
    facts: Mapping[str, str],
    outcome: Outcome,
) -> Page:
    """The page of one found model.

    Args:
        leaked: what it is called.
        result: of the search.
        sentences: what it says, as the command prints it.
        facts: how sure it is, by name.
        outcome: the numbers and the conditions.
    """
    return Page(
        "Trace of a found model",
        leaked,
        [
            Paragraph(" ".join(line.strip() for line in sentences), "note"),
            *(Paragraph(f"Failed: {line}.", "bad") for line in outcome.failed),
            *(Paragraph(f"Note: {line}.", "note") for line in outcome.warnings),
            Paragraph(_READ),
        ],
        [
            Section("The copies named", [_named(result.named)]),
            Section("How sure it is", [Facts(facts)]),
            gates_section(outcome),
        ],
    )


def _named(named: Sequence[Named]) -> PageTable:
    return PageTable(
        name="named",
        caption="The copies whose noise is in the found model." if named else "No copy was named.",
        columns=("copy", "handoff", "client", "round", "date", "z", "share"),
        rows=tuple(
            (
                item.suspect.copy,
                item.suspect.handoff,
                item.suspect.client,
                str(item.suspect.round),
                item.suspect.date or "–",
                f"{item.z:.1f}",
                f"{item.share:.2f} ± {2 * item.error:.2f}",
            )
            for item in named
        ),
        names=("copy", "handoff", "client", "round", "date", "z", "share", "share_error"),
        values=tuple(
            (
                item.suspect.copy,
                item.suspect.handoff,
                item.suspect.client,
                item.suspect.round,
                item.suspect.date,
                item.z,
                item.share,
                item.error,
            )
            for item in named
        ),
    )
