"""The statistics of docs/paper.md on made-up runs in which each claim is true, false or open."""

from __future__ import annotations

import csv
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from paper_claims import page
from paper_findings import (
    against_another_order,
    against_harmonic,
    against_one_copy,
    better_than_noise_free,
    mean_degradation,
    slopes,
    small_degradation,
    some,
)
from paper_intervals import DOES_NOT_HOLD, HOLDS, NOT_DECIDED, Estimate, below, over_seeds
from paper_runs import NEEDED, Run, read_table, table

from mpu_cli.errors import BadDataError

ROOT = Path(__file__).parents[2]
DEVIATIONS = (-1.3, -0.6, 0.1, 0.7, 1.1)
METHODS = ("GradAscent", "GradDiff", "NPO")
FREE = Run(
    kind="noise-free",
    method="GradDiff",
    optimizer="adamw",
    variant="",
    data="data",
    denoising="",
    reparam="",
    seed=1,
    draw=1,
    kappa=0.0,
    copies=0,
    offset=0.0,
    forget=0.4,
    retain=0.9,
    error=0.3,
)


def runs(
    *,
    lost=0.0,
    spread=0.002,
    seeds=5,
    draws=1,
    errors=lambda run: 0.01 * run.kappa,
    kappas=(0.01, 0.1),
    copies=(1, 2, 3),
    denoisings=("harmonic",),
    methods=METHODS,
    **settings,
):
    """Noise-free runs, and noisy ones whose forget probability is higher by `lost` ± `spread`.

    A seed has the same deviation in all methods, as where they unlearn on the same handoff.
    """
    chance = random.Random(f"{lost} {spread} {seeds}")
    made = []
    for method in methods:
        for seed in range(1, seeds + 1):
            order = chance.gauss(0, 0.01)
            free = replace(FREE, method=method, seed=seed, forget=0.4 + order, retain=0.9)
            free = replace(free, **{key: settings[key] for key in settings if key == "optimizer"})
            made.append(free)
            for kappa in kappas:
                for count in copies:
                    for denoising in denoisings:
                        for draw in range(1, draws + 1):
                            noisy = replace(
                                free,
                                kind="mpu",
                                kappa=kappa,
                                copies=count,
                                denoising=denoising,
                                draw=draw,
                                reparam="rotation",
                                forget=free.forget + lost + spread * DEVIATIONS[seed % 5],
                                **settings,
                            )
                            made.append(
                                replace(noisy, error=errors(noisy) * chance.uniform(0.95, 1.05))
                            )
    return made


@pytest.mark.parametrize(
    ("lost", "spread", "word"),
    [(0.0, 0.002, HOLDS), (0.06, 0.002, DOES_NOT_HOLD), (0.015, 0.03, NOT_DECIDED)],
)
def test_degradation_is_below_one_percent(lost, spread, word):
    """A forget probability higher by .06 is 4 % of the score .75; noise of .03 decides nothing."""
    found = small_degradation(table("x", runs(lost=lost, spread=spread)), kappa=0.1)
    assert [finding.verdict for finding in found if "average" in finding.setting] == [word] * 3
    estimate = found[0].estimate
    assert estimate.seeds == 5
    assert estimate.interval()[0] < estimate.mean < estimate.interval()[1]


def test_one_bad_method_does_not_make_most_methods_bad():
    """Of three, two hold: most do, although the average may not."""
    bad = [
        replace(run, forget=run.forget + 0.1) if run.kind == "mpu" and run.method == "NPO" else run
        for run in runs()
    ]
    found = {one.setting: one.verdict for one in small_degradation(table("x", bad), kappa=0.1)}
    assert found["most methods, m = 3"] == HOLDS
    assert found["average, m = 3"] == DOES_NOT_HOLD


@pytest.mark.parametrize(
    ("lost", "spread", "word"),
    [(-0.05, 0.002, HOLDS), (0.0, 0.002, DOES_NOT_HOLD), (-0.02, 0.03, NOT_DECIDED)],
)
def test_little_noise_is_sometimes_better(lost, spread, word):
    """An improvement inside the seeds' own spread is none."""
    found = better_than_noise_free(table("x", runs(lost=lost, spread=spread)), kappa=0.01)
    assert len(found) == 6  # three methods, m = 2 and 3
    assert some([finding.verdict for finding, _ in found]) == word


@pytest.mark.parametrize(
    ("errors", "word"),
    [
        (lambda run: 0.1 / run.copies, HOLDS),
        (lambda run: 0.1 * run.copies, DOES_NOT_HOLD),
        (lambda run: 0.1, NOT_DECIDED),
    ],
)
def test_copies_against_one_copy(errors, word):
    """The error's ratio within a seed; the same errors decide nothing."""
    found = against_one_copy(table("x", runs(errors=errors)))
    assert {(optimizer, kappa, copies) for optimizer, kappa, copies, _ in found} == {
        ("adamw", kappa, copies) for kappa in (0.01, 0.1) for copies in (2, 3)
    }
    assert {finding.verdict for *_, finding in found} == {word}


@pytest.mark.parametrize(
    ("error", "limit", "word"),
    [(1e-5, 0.1, HOLDS), (0.17, 0.1, DOES_NOT_HOLD), (0.03, 0.1, NOT_DECIDED), (0.1, 1.0, HOLDS)],
)
def test_against_another_order(error, limit, word):
    """Another order's error is .3: a rotation at .17 costs more than a tenth of it."""
    measured = table("x", runs(kappas=(0.0,), copies=(1,), errors=lambda run: error))
    finding = against_another_order(measured, measured.noisy(), limit)
    assert finding.verdict == word
    assert finding.estimate.mean == pytest.approx(error / 0.3, rel=0.05)


def test_an_order_that_was_not_measured_decides_nothing():
    """No divisor, no ratio."""
    without = [
        replace(run, error=None) if run.kind == "noise-free" else run
        for run in runs(kappas=(0.0,), copies=(1,), errors=lambda run: 0.1)
    ]
    measured = table("x", without)
    assert against_another_order(measured, measured.noisy(), 1.0) is None


def test_extrapolation_against_harmonic():
    """It gains at κ = .01 and loses at .1."""

    def errors(run):
        return run.kappa**2 * (30 * run.kappa if run.denoising == "extrapolation" else 1)

    measured = table("x", runs(denoisings=("harmonic", "extrapolation"), errors=errors))
    found = {(copies, kappa): one for *_, copies, kappa, one in against_harmonic(measured)}
    assert {found[2, 0.01].verdict, found[3, 0.01].verdict} == {HOLDS}
    assert {found[2, 0.1].verdict, found[3, 0.1].verdict} == {DOES_NOT_HOLD}


@pytest.mark.parametrize("power", [1, 2, 3])
def test_slopes(power):
    """The power of κ, within its interval."""
    measured = runs(errors=lambda run: run.kappa**power, methods=("NPO",), copies=(3,))
    slope = slopes(table("x", measured).noisy())
    low, high = slope.interval()
    assert low < power < high
    assert high - low < 0.2


def test_draws_and_methods_are_averaged_within_a_seed():
    """More draws do not make more seeds; a seed that one method lacks is left out."""
    many = table("x", runs(draws=4, methods=("NPO",)))
    assert mean_degradation(many, many.noisy(kappa=0.1, copies=3)).seeds == 5
    assert over_seeds([{1: [1.0, 3.0], 2: [5.0]}, {1: [4.0], 3: [9.0]}]) == Estimate(3.0, 1, None)


def test_one_seed_decides_nothing():
    """Its interval has no limits."""
    assert below(Estimate.of([0.0]), 100.0) == NOT_DECIDED
    with pytest.raises(ValueError, match="no values"):
        Estimate.of([])


def test_the_interval_covers_at_its_level():
    """Of 2,000 samples of five normal numbers about 95 % and 90 % have the mean inside."""
    chance, inside = random.Random(1), {0.95: 0, 0.90: 0}
    for _ in range(2000):
        estimate = Estimate.of([chance.gauss(0, 1) for _ in range(5)])
        for level in inside:
            low, high = estimate.interval(level)
            inside[level] += low < 0 < high
    assert inside[0.95] / 2000 == pytest.approx(0.95, abs=0.015)
    assert inside[0.90] / 2000 == pytest.approx(0.90, abs=0.02)
    narrow, wide = Estimate.of([1, 2, 3]).interval(), Estimate.of([1, 2, 3]).interval(tests=6)
    assert wide[0] < narrow[0]


def write(path, made):
    """A runs.csv of these runs, with a column that the page does not know."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["run", *NEEDED, "data", "variant", "draw", "utility"])
        writer.writeheader()
        for number, run in enumerate(made):
            values = {name: getattr(run, name) for name in (*NEEDED, "data", "variant", "draw")}
            values = {key: "" if value is None else value for key, value in values.items()}
            writer.writerow({"run": f"run {number}", **values, "utility": ""})


def script(directory):
    """The command that writes the page."""
    return subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "paper_claims.py", directory],
        capture_output=True,
        encoding="utf-8",
    )


def test_the_page_from_files(tmp_path):
    """Every section is there; what was not run is named; the same files give the same page."""
    side = [
        *runs(kappas=(0.0,), copies=(1,), errors=lambda run: 0.1),
        *[
            replace(run, offset=0.1, reparam="signed-permutation")
            for run in runs(kappas=(0.0,), copies=(1,), errors=lambda run: 0.1)
            if run.kind == "mpu"
        ],
    ]
    write(tmp_path / "paper.csv", [replace(FREE, kind="before", method="", seed=None), *runs()])
    write(tmp_path / "side.csv", side)
    write(
        tmp_path / "denoising.csv",
        runs(denoisings=("harmonic", "extrapolation"), errors=lambda run: run.kappa**2),
    )
    write(tmp_path / "smollm2.csv", runs(seeds=3, kappas=(0.1, 1.0), copies=(1, 3), offset=0.1))
    done = script(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for part in (
        "(a)",
        "(b)",
        "(c)",
        "(d)",
        "(e)",
        "(f)",
        "not run yet",
        HOLDS,
        "**average**",
        "κ = c = 1",
    ):
        assert part in done.stdout
    assert "nan" not in done.stdout
    assert script(tmp_path).stdout == done.stdout
    assert page({name: read_table(tmp_path / f"{name}.csv") for name in ("side", "paper")})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text.replace("retain", "kept", 1), "no column retain"),
        (lambda text: text.replace(",0.9,", ",high,", 1), "line 2: retain is 'high'"),
        (lambda text: text.replace(",0.9,", ",nan,", 1), "line 2: retain is 'nan'"),
        (lambda text: text.replace(",0.9,", ",,", 1), "line 2: retain is missing"),
        (lambda text: text.replace("noise-free", "before", 1), "has no noise-free run"),
        (lambda text: text + text.split("\n", 2)[1] + "\n", "two noise-free runs of GradAscent"),
    ],
)
def test_a_bad_table(tmp_path, change, told):
    """One line that names the file, the line and the column."""
    path = tmp_path / "paper.csv"
    write(path, runs())
    path.write_text(change(path.read_text().replace("\r\n", "\n")), encoding="utf-8")
    with pytest.raises(BadDataError, match=r"paper\.csv") as caught:
        read_table(path)
    assert told in str(caught.value)


def test_the_command_says_what_is_wrong_and_what_to_do(tmp_path):
    """Two lines on standard error, no page."""
    (tmp_path / "paper.csv").write_text("run,kind\n")
    done = script(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no column method" in done.stderr
    assert done.stderr.count("\n") == 2


def test_the_committed_page_is_current():
    """After a change of a CSV file or of the statistics: `make docs/paper.md`."""
    measured = ROOT / "examples" / "paper-table" / "measured"
    text = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    assert script(measured).stdout == text
