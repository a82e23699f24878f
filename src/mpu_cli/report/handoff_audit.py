"""The page of `mpu audit handoff`: stated, measured, and what other settings would give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mpu_cli.report.gates import Outcome, gates_section, verdict
from mpu_cli.report.numbers import short
from mpu_cli.report.other_settings import other_settings
from mpu_cli.report.page import Facts, Page, Paragraph, Section
from mpu_cli.report.plot import Mark
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.audit.handoff.audit import AuditRow, HandoffAudit
    from mpu_cli.audit.handoff.run_models import Runs
    from mpu_cli.server.lineage.exposure import Prior

_READ = (
    "Stated is what mpu perturb printed: at most this share stays unknown. Measured is what the"
    " best attack left unknown, in the unit of the noise: 1 is all that the public base does not"
    " say. Exact is the share of entries that an attack gives back bit for bit. None of the numbers"
    " says how a copy behaves: it behaves about as the model does."
)


def handoff_audit_page(
    result: HandoffAudit, runs: Runs | None, prior: Prior, facts: dict[str, str], outcome: Outcome
) -> Page:
    """The page of an audit of handoffs.

    Args:
        result: of the attacks.
        runs: of the models, unless they were not run.
        prior: what a holder does not know before the first copy.
        facts: how it was measured, by name.
        outcome: the numbers and the conditions.
    """
    worst = min(result.rows, key=lambda row: row.nearest.error)
    passed = (
        "No more leaks than perturb stated. The holder of"
        f" {worst.label} is left not knowing {short(worst.nearest.error)} of what the noise hides."
    )
    others = other_settings(prior, _marks(result.rows))
    return Page(
        "Audit of handoffs",
        "What holders of these handoffs can learn",
        [*verdict(outcome, passed), Paragraph(_READ)],
        [
            Section("Stated and measured", [Facts(facts), _pools(result.rows)]),
            *([others] if others else []),
            *_behaviour(runs),
            *_updates(result),
            Section("Given out so far", [_ledger(result)]),
            Section("Every attack", [_attempts(result.rows)]),
            gates_section(outcome),
        ],
    )


def _marks(rows: Sequence[AuditRow]) -> list[Mark]:
    """The best-known single copy, and the pool of the most copies."""
    single = [row for row in rows if len(row.copies) == 1]
    most = max(rows, key=lambda row: len(row.copies))
    marks = []
    if single:
        one = min(row.nearest.error for row in single)
        marks.append(Mark(one, f"yours, one copy: {short(one)}"))
    if len(most.copies) > 1:
        every = most.nearest.error
        marks.append(Mark(every, f"yours, {len(most.copies)} copies: {short(every)}"))
    return marks


def _pools(rows: Sequence[AuditRow]) -> PageTable:
    return PageTable(
        name="pools",
        caption="For each pool of copies that one party, or several together, may hold.",
        columns=("pool", "holders", "stated", "measured", "exact", "nearest attack"),
        rows=tuple(
            (
                row.label,
                ", ".join(row.holders),
                short(row.stated),
                short(row.nearest.error),
                f"{100 * row.exact:.3g} %",
                row.nearest.name,
            )
            for row in rows
        ),
        names=("pool", "holders", "stated", "measured", "exact", "nearest", "worse_than_stated"),
        values=tuple(
            (
                row.label,
                ", ".join(row.holders),
                row.stated,
                row.nearest.error,
                row.exact,
                row.nearest.name,
                str(row.worse).lower(),
            )
            for row in rows
        ),
    )


def _attempts(rows: Sequence[AuditRow]) -> PageTable:
    attempts = [(row.label, attempt) for row in rows for attempt in row.attempts]
    return PageTable(
        name="attacks",
        caption="What each attack left unknown of each pool.",
        columns=("pool", "attack", "left unknown", "exact"),
        rows=tuple(
            (label, it.name, short(it.error), f"{100 * it.exact:.3g} %") for label, it in attempts
        ),
        names=("pool", "attack", "estimate", "error", "exact", "share"),
        values=tuple(
            (label, it.attack, it.label, it.error, it.exact, it.share) for label, it in attempts
        ),
    )


def _ledger(result: HandoffAudit) -> PageTable:
    rows = [
        (row.holder, len(row.handoffs), row.stated, measured.error if measured else None)
        for row, measured in result.ledger
    ]
    return PageTable(
        name="ledger",
        caption="By the records of the lineage, these handoffs and all others. Measured is shown"
        " where everything that the holder has was attacked here.",
        columns=("holder", "handoffs", "stated", "measured"),
        rows=tuple(
            (holder, str(count), short(stated), short(measured))
            for holder, count, stated, measured in rows
        ),
        names=("holder", "handoffs", "stated", "measured"),
        values=tuple(rows),
    )


def _behaviour(runs: Runs | None) -> Iterator[Section]:
    if runs is None:
        return
    rows = []
    for number, one in enumerate(runs.behaviours, start=1):
        of = f" (model {number})" if len(runs.behaviours) > 1 else ""
        for name, distance in one.copies.items():
            rows.append((f"{name}{of}", distance.kl, distance.agreement, one.ratio(name)))
        if one.base is not None:
            rows.append((f"base{of}", one.base.kl, one.base.agreement, 1.0))
    table = PageTable(
        name="behaviour",
        caption=f"Beside the model, on {runs.texts}.",
        columns=("", "KL(θ‖it), nats", "same top token", "share of the base's KL"),
        rows=tuple(
            (name, short(kl), f"{100 * same:.4g} %", short(ratio)) for name, kl, same, ratio in rows
        ),
        names=("model", "kl", "agreement", "ratio"),
        values=tuple(rows),
    )
    yield Section("How the copies behave", [table])


def _updates(result: HandoffAudit) -> Iterator[Section]:
    if not result.updates:
        return
    table = PageTable(
        name="updates",
        caption="The update between two rounds; 1 is all of it. Nothing is stated of it.",
        columns=("rounds", "pool", "error", "cosine", "nearest attack"),
        rows=tuple(
            (
                f"{row.rounds[0]} and {row.rounds[1]}",
                row.label,
                short(row.nearest.error),
                f"{row.cosine:.3f}",
                row.nearest.label,
            )
            for row in result.updates
        ),
    )
    yield Section("Between rounds", [table])
