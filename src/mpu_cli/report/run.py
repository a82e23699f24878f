"""The page of a run of `mpu run`: what was forgotten and kept, what noise cost, what leaked."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpu_cli.errors import BadDataError
from mpu_cli.report.numbers import counted
from mpu_cli.report.page import Block, Facts, Listing, Page, Paragraph, Section
from mpu_cli.report.run_groups import RunGroup, groups, kappa_series
from mpu_cli.report.run_plots import convergence, error_in_kappa, leaks, slopes, utility
from mpu_cli.report.run_table import (
    NOISE_FREE,
    NOISY,
    PLAN,
    PROVENANCE,
    ROUNDS,
    RUNS,
    RunTable,
    read_runs,
    read_text,
)

_MOST_BYTES = 16 << 20
_MOST_ROUNDS = 1000
MOST_METHODS = 24
"""Methods with plots of their own."""
_READ = (
    "Forget and retain are mean answer probabilities of the rows to forget (lower is better) and of"
    " the retained rows (higher is better). Error is ‖Δ − Δ₀‖ / ‖Δ₀‖ of the whole change of the"
    " model, against the run without noise of the same method, seed and data (of a run without"
    " noise: against that of the next seed, which is what another order costs). Intervals are"
    " Student's 95 % over seeds, of which draws are averaged first (over draws, if there is one"
    " seed); they do not cover other models or rows."
)


def run_page(directory: Path) -> Page:
    """The page of a directory that `mpu run --out` wrote.

    Raises:
        BadDataError: a file is missing, cut short, or not what `mpu run` writes.
    """
    table = read_runs(directory / RUNS)
    rounds = read_runs(directory / ROUNDS) if os.path.lexists(directory / ROUNDS) else None
    provenance = _provenance(directory / PROVENANCE)
    plan = _text(directory / PLAN)
    found = groups(table)
    return Page(
        "Results of an experiment",
        str(provenance.get("name") or directory.resolve().name),
        [*_summary(table, found, provenance), Paragraph(_READ)],
        [
            Section("Forgetting and utility", list(_by_method(table, found, utility))),
            *_error(table, found),
            *_convergence(rounds),
            *_leaks(found),
            Section("Where the numbers come from", _origin(provenance, plan)),
        ],
    )


def _summary(
    table: RunTable, found: Sequence[RunGroup], provenance: Mapping[str, Any]
) -> Iterator[Paragraph]:
    seeds, methods = {run.seed for run in table.runs if run.seed}, table.methods
    counts = [
        f"{counted(len([run for run in table.runs if run.kind == kind]), 'run')} {words}"
        for kind, words in ((NOISY, "on perturbed copies"), (NOISE_FREE, "without noise"))
    ]
    yield Paragraph(
        f"{' and '.join(counts)}; {counted(len(seeds), 'seed')}; methods:"
        f" {', '.join(methods[:MOST_METHODS]) or '–'};"
        f" {counted(len([group for group in found if group.kind == NOISY]), 'setting')}."
    )
    if len(methods) > MOST_METHODS:
        yield Paragraph(
            f"Of {len(methods)} methods the first {MOST_METHODS} have plots and tables.", "note"
        )
    if provenance.get("complete") is False:
        yield Paragraph(
            "Not all steps of the plan are done: the page has the runs that are. The same mpu run"
            " goes on.",
            "bad",
        )


def _by_method(table: RunTable, found: Sequence[RunGroup], draw: Any) -> Iterator[Block]:
    others = [group for group in found if not group.method]
    for method in table.methods[:MOST_METHODS] or [""]:
        of_method = [group for group in found if group.method == method and method]
        yield from draw(method, [*others, *of_method])


def _error(table: RunTable, found: Sequence[RunGroup]) -> Iterator[Section]:
    series = kappa_series(found)
    if not any(one.kappas for one in series):
        return
    blocks: list[Block] = [
        Paragraph(
            "A slope is the exponent of κ: 1 is what plain noise has, 2 or more what denoising"
            " promises where the update is smooth in the weights."
        ),
        slopes(series),
    ]
    for method in table.methods[:MOST_METHODS]:
        blocks += error_in_kappa(method, [one for one in series if one.method == method])
    yield Section("Error against noise", blocks)


def _convergence(rounds: RunTable | None) -> Iterator[Section]:
    if rounds is None or max(run.round for run in rounds.runs) < 2:
        return
    numbers = sorted({run.round for run in rounds.runs})
    if len(numbers) > _MOST_ROUNDS:
        raise BadDataError(f"{ROUNDS}: has more than {_MOST_ROUNDS} rounds")
    by_round = {number: groups(rounds, at_round=number) for number in numbers}
    blocks: list[Block] = []
    for method in rounds.methods[:MOST_METHODS]:
        blocks += convergence(method, by_round)
    yield Section("Over the rounds", blocks)


def _leaks(found: Sequence[RunGroup]) -> Iterator[Section]:
    audited = [group for group in found if any("one_copy" in run.numbers for run in group.runs)]
    if audited:
        yield Section("What leaked", leaks(audited))


def _origin(provenance: Mapping[str, Any], plan: str | None) -> list[Block]:
    pairs = {"plan, SHA-256": str(provenance.get("plan_sha256", "not stated"))}
    versions, sources = provenance.get("versions"), provenance.get("sources")
    if isinstance(versions, Mapping):
        pairs["versions"] = ", ".join(f"{name} {value}" for name, value in versions.items())
    if isinstance(provenance.get("entropy"), str):
        pairs["secrets"] = provenance["entropy"]
    if isinstance(sources, Mapping):
        # Of a path the name is enough, and says nothing of the machine.
        pairs |= {
            f"{Path(str(path)).name} ({number})": f"digest {digest}"
            for number, (path, digest) in enumerate(sources.items(), start=1)
        }
    blocks: list[Block] = [Facts(pairs)]
    if plan is not None:
        blocks.append(Listing("The plan", plan))
    return blocks


def _provenance(path: Path) -> dict[str, Any]:
    text = _text(path)
    if text is None:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise BadDataError(f"{path}: not a JSON object", "run the plan again: mpu run writes it")
    return content


def _text(path: Path) -> str | None:
    return read_text(path, _MOST_BYTES) if os.path.lexists(path) else None
