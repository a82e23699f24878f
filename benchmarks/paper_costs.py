"""The paper's page: what a reparameterization and an offset cost (claims d and e).

Shared, not a benchmark. Each section adds its answers to the summary, and gives its lines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from paper_findings import (
    FREE,
    Finding,
    against_another_order,
    by_seed,
    change,
    mean_degradation,
    spread_of_score,
)
from paper_intervals import NOT_DECIDED, over_seeds
from paper_plans import Tables
from paper_runs import Run, Table
from paper_tables import Lines, lines_of, points, ratio, short, summary_row

from mpu_cli.evaluation.statistics import verdict


def reparameterization_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim d."""
    lines = ["## (d) What does the reparameterization cost?"]
    if (table := tables.get("side")) is None:
        return lines
    runs = table.noisy(kappa=0.0, offset=0.0, copies=1)
    lines += ["", "κ = 0, one copy: nothing but the reparameterization changes.", ""]
    rows = _costs(table, runs, lambda run: run.reparam, FREE, "d", summary)
    return [*lines, *lines_of(cost_columns("reparameterization"), rows)]


def offset_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim e."""
    lines = ["## (e) What does a secret offset cost, beside another order of the rows?"]
    if (table := tables.get("side")) is None:
        return lines
    lines += ["", "An offset alone (κ = 0, one copy), and with three copies at κ = .1:", ""]
    runs = [
        run for run in table.noisy(reparam="signed-permutation") if run.offset > 0 or run.kappa > 0
    ]

    def name(run: Run) -> str:
        noise = f", κ = {run.kappa:g}, m = {run.copies}" if run.kappa else ""
        return f"c = {run.offset:g}{noise}"

    rows = _costs(table, runs, name, 1.0, "e", summary)
    return [*lines, *lines_of(cost_columns("setting"), rows)]


def cost_columns(first: str) -> Sequence[str]:
    return (
        "method",
        "optimizer",
        first,
        "error",
        "error / another order's, 95 %",
        "verdict",
        "forget, points",
        "retain, points",
        "degradation, %",
        "within ± the seeds' sd",
    )


def _costs(
    table: Table,
    runs: Sequence[Run],
    name: Callable[[Run], str],
    limit: float,
    claim: str,
    summary: list[Sequence[str]],
) -> list[Sequence[str]]:
    keys = sorted(
        {(run.method, run.optimizer, name(run)) for run in runs},
        key=lambda key: (table.methods.index(key[0]), *key[1:]),
    )
    rows = []
    for method, optimizer, setting in keys:
        these = [
            run
            for run in runs
            if (run.method, run.optimizer, name(run)) == (method, optimizer, setting)
        ]
        finding = against_another_order(table, these, limit)
        if finding is not None:
            told = Finding(f"{setting}, {method}, {optimizer}", finding.estimate, finding.verdict)
            summary.append(summary_row(claim, "side", told, ratio))
        spread = spread_of_score(table, method, these[0].variant)
        lost = mean_degradation(table, these)
        rows.append(
            (
                method,
                optimizer,
                setting,
                short(fmean(run.error for run in these if run.error is not None)),
                "–" if finding is None else ratio(finding.estimate),
                NOT_DECIDED if finding is None else finding.verdict,
                points(over_seeds([by_seed(these, change(table, "forget"))])),
                points(over_seeds([by_seed(these, change(table, "retain"))])),
                points(lost),
                f"±{spread:.2f}: {verdict(lost.bounds(), spread)}",
            )
        )
    return rows
