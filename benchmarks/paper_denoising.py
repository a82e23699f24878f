"""The paper's page: copies, and the two denoisings (claims c and f).

Shared, not a benchmark. Each section adds its answers to the summary, and gives its lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from paper_findings import against_harmonic, against_one_copy, slopes
from paper_intervals import DOES_NOT_HOLD, HOLDS, NOT_DECIDED
from paper_plans import Tables, title
from paper_runs import Table
from paper_tables import Lines, lines_of, log_ratio, points, short, summary_row

MARKS = {HOLDS: "✓", NOT_DECIDED: "?", DOES_NOT_HOLD: "✗"}


def copies_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim c."""
    lines = ["## (c) Do several copies with harmonic denoising beat one noisy copy?"]
    for name in ("paper", "denoising"):
        if (table := tables.get(name)) is None:
            continue
        found = against_one_copy(table)
        rows = []
        for optimizer, kappa, copies, finding in found:
            told = log_ratio(finding.estimate)
            rows.append((optimizer, f"{kappa:g}", str(copies), told, finding.verdict))
            if math.isclose(kappa, 0.1):
                summary.append(summary_row("c", name, finding, log_ratio))
        lines += ["", f"{title(name)}. Error of m copies / error of one copy:", ""]
        lines += lines_of(("optimizer", "κ", "m", "ratio, 95 %", "verdict"), rows)
    for name in ("paper", "ours"):
        if (table := tables.get(name)) is not None:
            lines += ["", f"{title(name)}. The errors themselves (mean over seeds):", ""]
            lines += _errors_of_methods(table)
    if (table := tables.get("denoising")) is not None:
        lines += [
            "",
            "Slope of log error in log κ, κ ≤ .1 (the theory: 1 for one copy, 2 for harmonic"
            " denoising, m for extrapolation):",
            "",
        ]
        lines += _slopes(table)
    return lines


def _errors_of_methods(table: Table) -> Lines:
    settings = sorted({(run.kappa, run.copies) for run in table.noisy()})
    rows = []
    for method in table.methods:
        orders = [run.error for run in table.noise_free.values() if run.method == method]
        measured = [error for error in orders if error is not None]
        cells = [short(fmean(measured)) if measured else "–"]
        for kappa, copies in settings:
            runs = table.noisy(method=method, kappa=kappa, copies=copies)
            errors = [run.error for run in runs if run.error is not None]
            cells.append(short(fmean(errors)) if errors else "–")
        rows.append((method, *cells))
    heads = [f"κ = {kappa:g}, m = {copies}" for kappa, copies in settings]
    return lines_of(("method", "another order", *heads), rows)


def _slopes(table: Table) -> Lines:
    runs = table.noisy(offset=0.0)
    keys = sorted(
        {(run.method, run.optimizer, run.denoising, run.copies) for run in runs},
        key=lambda key: (table.methods.index(key[0]), *key[1:]),
    )
    rows = []
    for key in keys:
        these = [
            run for run in runs if (run.method, run.optimizer, run.denoising, run.copies) == key
        ]
        if (slope := slopes(these)) is not None:
            method, optimizer, denoising, copies = key
            kind = "one copy" if copies == 1 else denoising
            rows.append((method, optimizer, kind, str(copies), points(slope)))
    return lines_of(("method", "optimizer", "denoising", "m", "slope, 95 %"), rows)


def extrapolation_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim f."""
    lines = [
        "## (f) What does extrapolation gain over harmonic denoising, and where does it break?"
    ]
    if (table := tables.get("denoising")) is None:
        return lines
    found = against_harmonic(table)
    kappas = sorted({kappa for *_, kappa, _ in found})
    groups = list(
        dict.fromkeys((method, optimizer, copies) for method, optimizer, copies, *_ in found)
    )
    rows = []
    for group in groups:
        cells = {kappa: finding for *key, kappa, finding in found if tuple(key) == group}
        told = [
            f"{log_ratio(cells[kappa].estimate)} {MARKS[cells[kappa].verdict]}"
            if kappa in cells
            else "–"
            for kappa in kappas
        ]
        held = [kappa for kappa, finding in cells.items() if finding.verdict == HOLDS]
        rows.append((*map(str, group), *told, f"{max(held):g}" if held else "none"))
        if 0.1 in cells:
            summary.append(summary_row("f", "denoising", cells[0.1], log_ratio))
    lines += [
        "",
        "Error of extrapolation / error of harmonic denoising, 95 %, with the verdict (✓ gains,"
        " ✗ loses, ? not decided):",
        "",
    ]
    lines += lines_of(
        ("method", "optimizer", "m", *(f"κ = {kappa:g}" for kappa in kappas), "gains up to κ ="),
        rows,
    )
    lines += ["", "The errors themselves (mean over seeds):", ""]
    return [*lines, *_errors(table, kappas)]


def _errors(table: Table, kappas: Sequence[float]) -> Lines:
    runs = table.noisy(offset=0.0)
    keys = sorted(
        {(run.method, run.optimizer, run.copies, run.denoising) for run in runs},
        key=lambda key: (table.methods.index(key[0]), *key[1:]),
    )
    rows = []
    for key in keys:
        cells = []
        for kappa in kappas:
            errors = [
                run.error
                for run in runs
                if (run.method, run.optimizer, run.copies, run.denoising) == key
                and run.kappa == kappa
                and run.error is not None
            ]
            cells.append(short(fmean(errors)) if errors else "–")
        method, optimizer, copies, denoising = key
        rows.append(
            (method, optimizer, str(copies), "plain noise" if copies == 1 else denoising, *cells)
        )
    return lines_of(
        ("method", "optimizer", "m", "denoising", *(f"κ = {kappa:g}" for kappa in kappas)), rows
    )
