"""The paper's page: degradation and improvement (claims a and b), and the real model.

Shared, not a benchmark. Each section adds its answers to the summary, and gives its lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from paper_findings import (
    LIMIT,
    Finding,
    better_than_noise_free,
    by_seed,
    change,
    mean_degradation,
    seed_spread,
    small_degradation,
    some,
    spread_of_score,
)
from paper_intervals import Estimate, over_seeds
from paper_plans import Tables, title
from paper_runs import Run, Table
from paper_tables import Lines, lines_of, percent, points, summary_row

from mpu_cli.evaluation.statistics import verdict


def degradation_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim a."""
    lines = [
        "## (a) Is the degradation at κ = .1 below 1 %?",
        "",
        'The paper: "most algorithms\' average degradation well below 1% under 10% noise".',
    ]
    for name in ("paper", "ours"):
        if (table := tables.get(name)) is None:
            continue
        for finding in small_degradation(table, kappa=0.1):
            summary.append(summary_row("a", name, finding, percent))
        lines += ["", f"{title(name)}. Degradation in percent at κ = .1:", ""]
        lines += _degradations(table, kappa=0.1)
        lines += ["", "Change of forget / retain in points of 100, at κ = .1:", ""]
        lines += _changes(table, kappa=0.1)
    return lines


def improvement_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """Claim b."""
    lines = [
        "## (b) Is κ = .01 sometimes better than no noise, beyond the noise of the seeds?",
        "",
        'The paper: "can even outperform the noise-free baseline for some algorithms under 1%'
        ' noise".',
    ]
    for name in ("paper", "ours"):
        if (table := tables.get(name)) is None:
            continue
        found = better_than_noise_free(table, kappa=0.01)
        if not found:
            continue
        best = max((finding for finding, _ in found), key=lambda finding: finding.estimate.mean)
        word = some([finding.verdict for finding, _ in found])
        told = Finding(f"best of {len(found)}: {best.setting}", best.estimate, word)
        summary.append(summary_row("b", name, told, percent))
        lines += [
            "",
            f"{title(name)}. Improvement of the score in percent, κ = .01:",
            "",
        ]
        lines += lines_of(
            ("method", "improvement, 95 %", "seed-to-seed sd", "verdict"),
            [
                (finding.setting, points(finding.estimate), f"{spread:.2f}", finding.verdict)
                for finding, spread in found
            ],
        )
    return lines


def real_model_section(tables: Tables, summary: list[Sequence[str]]) -> Lines:
    """SmolLM2-135M."""
    lines = ["## A real model: SmolLM2-135M-Instruct on TOFU rows, κ = c"]
    if (table := tables.get("smollm2")) is None:
        return lines
    for kappa in table.values("kappa"):
        for finding in small_degradation(table, kappa=kappa):
            told = Finding(
                f"κ = c = {kappa:g}, {finding.setting}", finding.estimate, finding.verdict
            )
            summary.append(summary_row("a", "smollm2", told, percent))
        lines += ["", f"Degradation in percent at κ = c = {kappa:g}:", ""]
        lines += _degradations(table, kappa=kappa)
        lines += ["", "Change of forget / retain in points of 100:", ""]
        lines += _changes(table, kappa=kappa)
    return lines


def _degradations(table: Table, **settings: object) -> Lines:
    """Methods × m: degradation, interval, and whether it is equivalent within ± LIMIT."""
    copies = table.values("copies", **settings)
    rows = []
    for method in [*table.methods, ""]:
        runs = table.noisy(**settings) if not method else table.noisy(method=method, **settings)
        free = [run for run in table.noise_free.values() if run.method == method]
        cells = []
        for count in copies:
            these = [run for run in runs if run.copies == count]
            cells.append(_with_word(mean_degradation(table, these)) if these else "–")
        if not any(cell != "–" for cell in cells):
            continue
        if method:
            untouched = " / ".join(_mean_and_spread(free, name) for name in ("forget", "retain"))
            rows.append((method, untouched, f"{spread_of_score(table, method):.2f}", *cells))
        else:
            rows.append(("**average**", "", "", *cells))
    return lines_of(
        (
            "method",
            "noise-free forget / retain ± sd",
            "sd of the score, %",
            *(f"m = {n}" for n in copies),
        ),
        rows,
    )


def _mean_and_spread(runs: Sequence[Run], name: str) -> str:
    def value(run: Run) -> float:
        return float(getattr(run, name))

    return f"{fmean(map(value, runs)):.3f} ± {seed_spread(runs, value):.3f}"


def _with_word(estimate: Estimate) -> str:
    return f"{points(estimate)} {verdict(estimate.bounds(), LIMIT)}"


def _changes(table: Table, **settings: object) -> Lines:
    copies = table.values("copies", **settings)
    rows = []
    for method in table.methods:
        cells = []
        for count in copies:
            these = table.noisy(method=method, copies=count, **settings)
            cells.append(
                " / ".join(
                    points(over_seeds([by_seed(these, change(table, name))]))
                    for name in ("forget", "retain")
                )
                if these
                else "–"
            )
        rows.append((method, *cells))
    return lines_of(("method", *(f"m = {n}" for n in copies)), rows)
