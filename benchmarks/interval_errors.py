"""How often `mpu compare` and `mpu eval` are wrong.

`python benchmarks/interval_errors.py [means areas …] [--trials 500]`.

Resampled rows whose truth is known, runs the product's own `compare` and `summarise` on them, and
prints how often "equivalent" is said where the true difference equals the margin, how often
"different" where there is none, and how often the interval holds the truth. The bars: errors at
most .06, coverage at least .93, from 20 to 400 rows. Beside it stand Student's t and the percentile
bootstrap, which was used until 2026-11-29. `power` prints how often "equivalent" and "different"
are said where they are true, `time` what it costs. About 12 minutes of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

from mpu_cli.evaluation.compare import compare
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.records.record import Record, SetInfo
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.evaluation.statistics import DIFFERENT, EQUIVALENT, auc, harmonic_mean
from mpu_cli.evaluation.summarise import summarise

RESAMPLES = CompareSettings().resamples

Array = NDArray[np.float64]
Random = np.random.Generator
Shape = tuple[int, int]
"""Trials, rows."""

SIZES = (20, 40, 100, 400)
SIZES_OF_AREAS = ((20, 20), (40, 40), (20, 100), (100, 20), (100, 100), (400, 400))
WORST_ERROR, LEAST_COVERAGE = 0.06, 0.93
AT_ONCE = 500
"""Trials in one record: conditions of one metric."""
METRIC = "answer_probability"


@dataclass(frozen=True, slots=True)
class Differences:
    """Rows' differences between two models, in −1 … 1, with a true mean of 0 or ± margin."""

    name: str
    margin: float
    rows: Callable[[Random, Shape, float], Array]
    """From the true mean."""


def shifted(
    name: str, centred: Callable[[Random, Shape], Array], margin: float = 0.05
) -> Differences:
    """Rows of mean 0, and the true mean added to each."""
    return Differences(
        name, margin, lambda random, shape, mean: np.clip(centred(random, shape), -0.9, 0.9) + mean
    )


def sparse(share: float, size: float = 1.0, spread: float = 0.0) -> Differences:
    """Few rows differ by `size`, the others by about nothing.

    With a mean of 0, the others differ by a little the other way.
    """

    def rows(random: Random, shape: Shape, mean: float) -> Array:
        few = np.where(
            random.random(shape) < share,
            size,
            spread * random.standard_normal(shape) if spread else 0.0,
        )
        return few * np.sign(mean) if mean else np.clip(few - share * size, -1, 1)

    noise = f", the others by noise of {spread:g}" if spread else ""
    return Differences(f"{share:.0%} of rows differ by {size:g}{noise}", share * size, rows)


def _lognormal(random: Random, shape: Shape) -> Array:
    """With a mean of 0, a standard deviation of about .06; cut where it moves the mean by 1e-5."""
    return 0.045 * (random.lognormal(-0.5, 1.0, shape) - 1)


DIFFERENCES = (
    shifted("normal, sd .02", lambda r, s: r.normal(0, 0.02, s)),
    shifted("normal, sd .1", lambda r, s: r.normal(0, 0.1, s)),
    shifted("exponential, sd .1", lambda r, s: r.exponential(0.1, s) - 0.1),
    shifted("minus exponential, sd .1", lambda r, s: 0.1 - r.exponential(0.1, s)),
    shifted("lognormal, sd .06", _lognormal),
    shifted("minus lognormal, sd .06", lambda r, s: -_lognormal(r, s)),
    shifted("Student's t, 3 degrees, × .03", lambda r, s: 0.03 * r.standard_t(3, s)),
    shifted("Student's t, 2 degrees, × .02", lambda r, s: 0.02 * r.standard_t(2, s)),
    shifted("two values, ± .3", lambda r, s: r.choice([-0.3, 0.3], s)),
    shifted("all equal", lambda r, s: np.zeros(s)),
    sparse(0.01),
    sparse(0.01, spread=0.001),
    sparse(0.05, 0.5),
    sparse(0.1, 0.5, 0.02),
    sparse(0.3),
)


@dataclass(frozen=True, slots=True)
class Values:
    """Rows' numbers, in 0 … 1, with a true mean."""

    name: str
    mean: float
    rows: Callable[[Random, Shape], Array]


def rate(share: float) -> Values:
    """Rows that are 0 or 1."""
    return Values(f"rate of {share:g}", share, lambda r, s: (r.random(s) < share).astype(float))


VALUES = (
    rate(0.01),
    rate(0.05),
    rate(0.5),
    rate(0.95),
    Values("uniform", 0.5, lambda r, s: r.random(s)),
    Values("close to 0: beta(.1, 1.9)", 0.05, lambda r, s: r.beta(0.1, 1.9, s)),
    Values("close to 1: beta(9.9, .1)", 0.99, lambda r, s: r.beta(9.9, 0.1, s)),
    Values("0, few .5, fewer 1", 0.05, lambda r, s: r.choice([0, 0.5, 1], s, p=[0.92, 0.06, 0.02])),
)


@dataclass(frozen=True, slots=True)
class Scores:
    """Losses of members and of others, with a known area."""

    name: str
    area: float
    rows: Callable[[Random, Shape, Shape], tuple[Array, Array]]


def normal_scores(area: float, spread: float = 1.0) -> Scores:
    """Members N(0, 1), others N(d, `spread`²)."""
    shift = norm.ppf(area) * np.hypot(1, spread)
    return Scores(
        f"normal, others' sd {spread:g}, {area:g}",
        area,
        lambda r, n, h: (r.normal(0, 1, n), r.normal(shift, spread, h)),
    )


def out_of_order(share: float) -> Scores:
    """So many members above all others, the rest below: the hardest case for a given area."""
    return Scores(
        f"{share:.0%} of members above all others",
        1 - share,
        lambda r, n, h: (r.random(n) + 3.0 * (r.random(n) < share), 1.5 + r.random(h)),
    )


AREAS = (
    normal_scores(0.5),
    normal_scores(0.8),
    normal_scores(0.95),
    normal_scores(0.99),
    normal_scores(0.9, 3),
    normal_scores(0.99, 3),
    Scores("exponential, .99", 0.99, lambda r, n, h: (r.exponential(1, n), r.exponential(99, h))),
    out_of_order(0.01),
    out_of_order(0.05),
    out_of_order(0.2),
)


@dataclass(frozen=True, slots=True)
class AreaPairs:
    """Scores of two models of the same rows: (members, others) of each."""

    name: str
    areas: tuple[float, float]
    rows: Callable[[Random, Shape, Shape], tuple[tuple[Array, Array], tuple[Array, Array]]]


def normal_pairs(first: float, other: float, shared: float) -> AreaPairs:
    """Normal scores of two areas, correlated by `shared` over rows."""

    def rows(random: Random, n: Shape, h: Shape) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        common = random.standard_normal(n), random.standard_normal(h)
        pair = []
        for area in (first, other):
            own = (
                np.sqrt(shared) * one + np.sqrt(1 - shared) * random.standard_normal(one.shape)
                for one in common
            )
            members, others = own
            pair.append((members, others + norm.ppf(area) * np.sqrt(2)))
        return pair[0], pair[1]

    return AreaPairs(
        f"normal, {first:g} and {other:g}, correlation {shared:g}", (first, other), rows
    )


def few_fall(share: float) -> AreaPairs:
    """All members below all others in the first model; in the other one a few lie above."""

    def rows(random: Random, n: Shape, h: Shape) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        members, others = random.random(n), 1.5 + random.random(h)
        return (members, others), (members + 3.0 * (random.random(n) < share), others)

    return AreaPairs(f"1 and {1 - share:g}: {share:.0%} of members fall", (1.0, 1 - share), rows)


AREA_PAIRS = (
    normal_pairs(0.7, 0.7, 0.5),
    normal_pairs(0.99, 0.99, 0.5),
    normal_pairs(0.95, 0.95, 0.95),
    normal_pairs(0.7, 0.75, 0.5),
    normal_pairs(0.95, 0.9, 0.9),
    normal_pairs(0.99, 0.97, 0.5),
    few_fall(0.01),
    few_fall(0.05),
)

LEAKS = (
    normal_pairs(0.6, 0.6, 0.5),
    normal_pairs(0.6, 0.95, 0.5),
    normal_pairs(0.9, 0.3, 0.5),
    normal_pairs(0.95, 0.95, 0.9),
)


@dataclass(frozen=True, slots=True)
class Found:
    """Shares of trials, for one distribution and size; None where it does not apply."""

    name: str
    rows: str
    equivalent: float | None = None
    """Said though the true difference equals the margin: of both signs, the more frequent."""
    different: float | None = None
    """Said though there is none."""
    coverage: float | None = None
    """Of all true values tried, the least."""
    beside: dict[str, float] = field(default_factory=dict)
    """The same of other methods."""

    @property
    def holds(self) -> bool:
        """Whether the bars are met."""
        worst = max(self.equivalent or 0.0, self.different or 0.0)
        return worst <= WORST_ERROR and (self.coverage is None or self.coverage >= LEAST_COVERAGE)


def record(columns: dict[tuple[str, str], Array]) -> Record:
    """Of many trials, as conditions of a metric: columns by (set, metric), each (trials, n)."""
    sets = {name: SetInfo(name, values.shape[1], name) for (name, _), values in columns.items()}
    split = {key: values[0] for key, values in columns.items()}
    split |= {
        (name, f"{metric}@{trial}"): row
        for (name, metric), values in columns.items()
        for trial, row in enumerate(values)
    }
    return Record({}, {}, sets, split)


def batches(trials: int) -> Iterator[int]:
    """Sizes that sum to `trials`."""
    return (min(AT_ONCE, trials - start) for start in range(0, trials, AT_ONCE))


def compared(
    first: Record, other: Record, margin: float, metric: str = METRIC
) -> tuple[Array, Array, Array]:
    """Of each trial: whether equivalent, whether different, and the interval (trials, 2)."""
    (pair,) = compare({"a": first, "b": other}, margin=margin).pairs
    lines = [line for line in pair.lines if line.metric.startswith(f"{metric}@")]
    said = np.array([line.verdict for line in lines])
    return (
        said == EQUIVALENT,
        said == DIFFERENT,
        np.array([(line.low, line.high) for line in lines], float),
    )


def said_of(rows: Array, margin: float) -> tuple[Array, Array, Array]:
    """`compared`, of two records whose rows differ by (trials, n) numbers between −1 and 1."""
    one, two = (record({("forget", METRIC): np.maximum(sign * rows, 0)}) for sign in (-1, 1))
    return compared(one, two, margin)


def covered(intervals: Array, truth: float) -> float:
    """The share of (trials, 2) that holds the truth."""
    return float(((intervals[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= intervals[:, 1])).mean())


def student_interval(rows: Array, level: float) -> Array:
    """Of the mean of each row of (trials, n): (trials, 2)."""
    n = rows.shape[1]
    half = student.ppf((1 + level) / 2, n - 1) * rows.std(axis=1, ddof=1) / np.sqrt(n)
    return np.stack([rows.mean(axis=1) - half, rows.mean(axis=1) + half], axis=1)


def percentile_interval(rows: Array, level: float, resamples: int = 2000) -> Array:
    """Efron's, with the same resamples for all trials: (trials, 2)."""
    n = rows.shape[1]
    counts = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), resamples)
    return np.quantile(counts @ rows.T / n, [(1 - level) / 2, (1 + level) / 2], axis=0).T


Method = Callable[[Array, float], Array]
BESIDE: Mapping[str, Method] = {"t": student_interval, "percentile": percentile_interval}


def differences(
    case: Differences, n: int, trials: int, others: Mapping[str, Method] = BESIDE, seed: int = 1
) -> Found:
    """Error rates and coverage for differences of means.

    The same of other methods, on the same rows.
    """
    random = np.random.default_rng([seed, n])
    equivalent, different, coverage = [], 0.0, []
    beside: dict[str, list[float]] = {
        f"{name}: {what}": [] for name in others for what in ("equivalent", "different", "coverage")
    }
    for mean in (0.0, case.margin, -case.margin):
        rows = [case.rows(random, (size, n), mean) for size in batches(trials)]
        found = [said_of(some, case.margin) for some in rows]
        same, unlike, intervals = (np.concatenate(part) for part in zip(*found, strict=True))
        coverage.append(covered(intervals, mean))
        if mean:
            equivalent.append(float(same.mean()))
        else:
            different = float(unlike.mean())
        for name, method in others.items():
            narrow, wide = method(np.concatenate(rows), 0.9), method(np.concatenate(rows), 0.95)
            beside[f"{name}: coverage"].append(covered(wide, mean))
            if mean:
                beside[f"{name}: equivalent"].append(
                    float((np.abs(narrow) < case.margin).all(axis=1).mean())
                )
            else:
                beside[f"{name}: different"].append(
                    float(((wide[:, 0] > 0) | (wide[:, 1] < 0)).mean())
                )
    worst = {
        name: (min if name.endswith("coverage") else max)(shares) for name, shares in beside.items()
    }
    return Found(case.name, str(n), max(equivalent), different, min(coverage), worst)


def values(case: Values, n: int, trials: int, seed: int = 2) -> Found:
    """Coverage for means."""
    random, held, old = np.random.default_rng([seed, n]), 0.0, 0.0
    for size in batches(trials):
        rows = case.rows(random, (size, n))
        held += covered(_intervals(record({("forget", METRIC): rows}), "forget"), case.mean) * size
        old += covered(percentile_interval(rows, 0.95), case.mean) * size
    return Found(
        case.name, str(n), coverage=held / trials, beside={"percentile: coverage": old / trials}
    )


def areas(case: Scores, n: int, h: int, trials: int, seed: int = 3) -> Found:
    """Coverage for areas; the percentile bootstrap, which is slow, in a tenth of the trials."""
    random, held = np.random.default_rng([seed, n, h]), 0.0
    for size in batches(trials):
        members, others = case.rows(random, (size, n), (size, h))
        held += (
            covered(
                _intervals(
                    record({("forget", "loss"): members, ("holdout", "loss"): others}), "model"
                ),
                case.area,
            )
            * size
        )
    members, others = case.rows(random, (max(1, trials // 10), n), (max(1, trials // 10), h))
    mine, theirs = random.integers(0, n, (500, n)), random.integers(0, h, (500, h))
    old = np.array(
        [
            np.quantile(auc(a[mine], b[theirs]), [0.025, 0.975])
            for a, b in zip(members, others, strict=True)
        ]
    )
    return Found(
        case.name,
        f"{n}, {h}",
        coverage=held / trials,
        beside={"percentile: coverage": covered(old, case.area)},
    )


def area_pairs(case: AreaPairs, n: int, h: int, trials: int, seed: int = 4) -> Found:
    """Errors and coverage for differences of areas; the margin is the true difference."""
    difference = case.areas[1] - case.areas[0]
    random, same, other, held = np.random.default_rng([seed, n, h]), 0.0, 0.0, 0.0
    for size in batches(trials):
        pair = case.rows(random, (size, n), (size, h))
        one, two = (
            record({("forget", "loss"): members, ("holdout", "loss"): others})
            for members, others in pair
        )
        equal, unequal, intervals = compared(one, two, abs(difference) or 0.05, "membership_loss")
        same, other = same + float(equal.sum()), other + float(unequal.sum())
        held += covered(intervals, difference) * size
    if difference:
        return Found(case.name, f"{n}, {h}", equivalent=same / trials, coverage=held / trials)
    return Found(case.name, f"{n}, {h}", different=other / trials, coverage=held / trials)


def leakage(case: AreaPairs, n: int, h: int, trials: int, seed: int = 8) -> Found:
    """Coverage for privacy leakage of the second model, the first being the retrained one."""
    retrained, own = case.areas
    random, held = np.random.default_rng([seed, n, h]), 0.0
    for size in batches(trials):
        pair = case.rows(random, (size, n), (size, h))
        kept, one = (
            record({("forget", "min_k"): members, ("holdout", "min_k"): others})
            for members, others in pair
        )
        found = summarise(one, kept, ("privacy_leakage",), 0, RESAMPLES).values["model"]
        intervals = np.array(
            [
                (value["low"], value["high"])
                for name, value in found.items()
                if name.startswith("privacy_leakage@")
            ]
        )
        held += covered(intervals, ((1 - own) / (1 - retrained) - 1) * 100) * size
    return Found(f"leakage: {case.name}", f"{n}, {h}", coverage=held / trials)


PARTS = ("answer_probability", "rouge_recall", "truth_ratio")


def utility(
    n: int, sets: int, means: tuple[float, ...], trials: int, drop: float = 0.0, seed: int = 5
) -> Found:
    """Errors and coverage for model utility over so many sets.

    The other model's rows are `drop` lower in share.
    """
    random, said, held, value = np.random.default_rng([seed, n, sets]), 0.0, 0.0, 0.0
    names = ["retain", *(f"facts-{number}" for number in range(1, sets))]
    truth = [
        float(harmonic_mean([np.array(share * mean) for mean in means]))
        for share in (1.0, 1 - drop)
    ]
    margin = truth[0] - truth[1] or 0.05
    for size in batches(trials):
        one: dict[tuple[str, str], Array] = {}
        two: dict[tuple[str, str], Array] = {}
        for name in names:
            for part, mean in zip(PARTS, means, strict=True):
                rows = random.beta(2 * mean, 2 * (1 - mean), (size, n))
                one[name, part] = rows
                # Either way to lose a share: some rows lose all, or with no loss other rows of the
                # same distribution.
                two[name, part] = (
                    rows * (random.random((size, n)) >= drop)
                    if drop
                    else random.beta(2 * mean, 2 * (1 - mean), (size, n))
                )
        first, other = (replace_roles(record(columns)) for columns in (one, two))
        value += covered(_intervals(first, "model"), truth[0]) * size
        equal, unequal, intervals = compared(first, other, margin, "model_utility")
        said += float((equal if drop else unequal).sum())
        held += covered(intervals, truth[1] - truth[0]) * size
    coverage = min(held, value) / trials
    name = f"{sets} sets, parts {', '.join(f'{mean:g}' for mean in means)}"
    if drop:
        return Found(
            f"{name}, {drop:.0%} of rows lost", str(n), equivalent=said / trials, coverage=coverage
        )
    return Found(name, str(n), different=said / trials, coverage=coverage)


def replace_roles(found: Record) -> Record:
    """Every set but the retain set is a utility set."""
    roles = {
        name: SetInfo("retain" if name == "retain" else "utility", info.rows, name)
        for name, info in found.sets.items()
    }
    return Record({}, {}, roles, found.columns)


def _intervals(found: Record, owner: str) -> Array:
    """The printed intervals of the trials, (trials, 2)."""
    metrics = summarise(found, None, (), 0, RESAMPLES).values[owner]
    return np.array([(one["low"], one["high"]) for name, one in metrics.items() if "@" in name])


def power(
    case: Differences, n: int, trials: int, margin: float, mean: float = 0.0
) -> tuple[float, float]:
    """How often "equivalent" and "different" are said of rows with this true mean."""
    random, counts = np.random.default_rng([6, n]), np.zeros(2)
    for size in batches(trials):
        equal, unequal, _ = said_of(case.rows(random, (size, n), mean), margin)
        counts += equal.sum(), unequal.sum()
    return float(counts[0] / trials), float(counts[1] / trials)


UTILITIES = (
    (1, (0.8, 0.6, 0.4), 0.0),
    (1, (0.8, 0.6, 0.4), 0.05),
    (3, (0.9, 0.7, 0.1), 0.0),
    (3, (0.9, 0.7, 0.1), 0.05),
)


def print_means(trials: int) -> None:
    """Differences of means, then means."""
    _table([differences(case, n, trials) for case in DIFFERENCES for n in SIZES])
    _table([values(case, n, trials) for case in VALUES for n in SIZES])


def print_areas(trials: int) -> None:
    """Areas, differences of areas, and the ratio that privacy leakage is."""
    _table([areas(case, *sizes, trials) for case in AREAS for sizes in SIZES_OF_AREAS])
    _table([area_pairs(case, *sizes, trials) for case in AREA_PAIRS for sizes in SIZES_OF_AREAS])
    _table([leakage(case, *sizes, trials) for case in LEAKS for sizes in SIZES_OF_AREAS])


def print_utility(trials: int) -> None:
    """Model utility."""
    _table(
        [
            utility(n, sets, means, trials // 2, drop)
            for sets, means, drop in UTILITIES
            for n in SIZES
        ]
    )


POWER = (
    "all equal",
    "normal, sd .02",
    "normal, sd .1",
    "exponential, sd .1",
    "1% of rows differ by 1, the others by noise of 0.001",
)


def print_power(trials: int) -> None:
    """Of differences of 0 against a margin of .05, and of differences of .05 and .1."""
    sizes = (40, 60, 100, 150, 200, 400, 1000)
    print(f"{'said where it is true':48}" + "".join(f"{n:>7}" for n in sizes))
    for case in (case for case in DIFFERENCES if case.name in POWER):
        for word, mean in (
            ("equivalent, ±.05", 0.0),
            ("different, .05", 0.05),
            ("different, .1", 0.1),
        ):
            if case.margin == 0.05 or not mean:
                shares = [
                    power(case, n, min(trials, 500), 0.05, mean)[int(mean > 0)] for n in sizes
                ]
                print(
                    f"{case.name[:30] + ': ' + word:48}"
                    + "".join(f"{share:7.2f}" for share in shares)
                )


def print_time(trials: int) -> None:
    """One evaluation of 21 metrics under four conditions, and one comparison of two."""
    for n in (40, 400, 4000):
        random = np.random.default_rng(7)
        columns = {
            (name, f"{metric}{condition}"): random.random(n)
            for name in ("forget", "retain", "holdout")
            for metric, limits in MEASURED.items()
            if limits or name != "retain"
            for condition in ("", "@8-bit", "@4-bit", "@paraphrased")
        }
        found = Record(
            {},
            {},
            {name: SetInfo(name, n, name) for name in ("forget", "retain", "holdout")},
            columns,
        )
        for word, call in (
            (
                "summarise",
                lambda found=found: summarise(found, found, (), 0, RESAMPLES),
            ),
            (
                "compare",
                lambda found=found: compare(
                    {"a": found, "b": found}, margin=0.05, retain_record=found
                ),
            ),
        ):
            call()
            started = time.process_time()
            call()
            print(
                f"{word:10} {n:5} rows, {len(columns)} columns: {time.process_time() - started:.2f}"
                " CPU-s"
            )


def _table(rows: list[Found]) -> None:
    beside = list(rows[0].beside)
    print(
        f"{'':52}{'rows':>9}{'equivalent':>11}{'different':>10}{'coverage':>9}  "
        + "".join(f"{name:>24}" for name in beside)
    )
    for row in rows:
        own = (row.equivalent, 11), (row.different, 10), (row.coverage, 9)
        cells = "".join(
            f"{'–' if value is None else format(value, '.3f'):>{width}}" for value, width in own
        )
        others = "".join(f"{row.beside[name]:24.3f}" for name in beside)
        print(
            f"{row.name[:52]:52}{row.rows:>9}{cells}{'  ' if row.holds else ' !'}{others}",
            flush=True,
        )


MEASURED = {name: metric.shown for name, metric in row_metrics().items() if name != "ngram_entropy"}
SHOWN = {
    "means": print_means,
    "areas": print_areas,
    "utility": print_utility,
    "power": print_power,
    "time": print_time,
}


def main() -> None:
    """Parse, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(SHOWN)}; default: all")
    parser.add_argument("--trials", type=int, default=500)
    asked = parser.parse_args()
    if unknown := set(asked.parts) - set(SHOWN):
        parser.error(f"{', '.join(unknown)}: expected {', '.join(SHOWN)}")
    for part in asked.parts or SHOWN:
        started = time.monotonic()
        SHOWN[part](asked.trials)
        print(f"({part}: {asked.trials} trials, {time.monotonic() - started:.0f} s)\n")


if __name__ == "__main__":
    main()
