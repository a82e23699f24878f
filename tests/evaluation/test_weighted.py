"""Intervals from random weights.

Exact where an exact interval is known, none where nothing bounds the rows.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.stats import beta, binom

from mpu_cli.evaluation import weighted
from mpu_cli.evaluation.metrics import model_metrics, row_metrics
from mpu_cli.evaluation.records.record import Record, SetInfo
from mpu_cli.evaluation.settings import CompareSettings
from mpu_cli.evaluation.summarise import resample, summarise
from mpu_cli.evaluation.weighted import draw_weights

RESAMPLES = CompareSettings().resamples


def record(columns: dict[tuple[str, str], np.ndarray]) -> Record:
    """Of columns by (set, metric); a set's name is its role."""
    return Record(
        {},
        {},
        {name: SetInfo(name, len(rows), name) for (name, _), rows in columns.items()},
        columns,
    )


def draws(columns: dict[tuple[str, str], np.ndarray], seed: int = 0, resamples: int = RESAMPLES):
    """Of one record, by (set, metric)."""
    found = record(columns)
    return resample(
        [found.view()],
        {name: info.rows for name, info in found.sets.items()},
        model_metrics(),
        seed,
        resamples,
    )[0]


def bounds(rows, metric: str = "answer_probability"):
    """Of one column of the forget set."""
    return draws({("forget", metric): np.asarray(rows, float)})["forget", metric].bounds()


@pytest.mark.parametrize("n", [2, 20, 40, 400])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_equal_rows_leave_room_for_the_unseen(n, level):
    """Of 40 equal rows up to 7.2 % could be otherwise (one-sided, 5 %).

    1 − .05^(1/n), and they would be 0 or 1.
    """
    found = bounds(np.full(n, level))
    for (low, high), tail in ((found.narrow, 0.05), (found.wide, 0.025)):
        other = 1 - tail ** (1 / n)
        assert (low, high) == pytest.approx(
            (level * (1 - other), level + (1 - level) * other), abs=2e-4
        )


@pytest.mark.parametrize("n", [20, 100, 400])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9])
def test_of_zeros_and_ones_it_is_clopper_and_pearsons(n, share):
    """Whose error rates are known exactly.

    The drawn bounds miss their 2.5 and 5 % by no more than the draws' own error.
    """
    ones = round(share * n)
    found = bounds(np.arange(n) < ones)
    for (low, high), tail in ((found.narrow, 0.05), (found.wide, 0.025)):
        assert beta.cdf(low, ones, n - ones + 1) == pytest.approx(tail, rel=0.2)
        assert beta.sf(high, ones + 1, n - ones) == pytest.approx(tail, rel=0.2)


@pytest.mark.parametrize("n", [20, 40, 100, 400])
def test_the_one_sided_tests_are_wrong_as_seldom_as_they_say(n):
    """Of rows that are 0 or 1 the error is a sum of binomial probabilities, no simulation.

    At most .055 at any share, of 5 %.
    """
    blocks = [block["forget"] for block in draw_weights({"forget": n}, 0, RESAMPLES)]
    shares = np.concatenate([np.cumsum(block.rows, axis=1) for block in blocks])
    unseen = np.concatenate([block.unseen(n) for block in blocks])[:, None]
    ones = np.arange(n)
    upper = np.quantile(
        unseen + (1 - unseen) * (shares - shares[:, :1]), 0.95, axis=0
    )  # of 0 … n − 1 ones
    for share in np.arange(0.02, 1, 0.02):
        assert binom.pmf(ones, n, share)[upper < share].sum() <= 0.055


def test_what_is_printed_of_a_rate_is_exact():
    """No draws at all: scipy's interval."""
    rows = (np.arange(50) < 4).astype(float)
    one = summarise(record({("forget", "empty"): rows}), None, (), 0, 1000).values["forget"][
        "empty"
    ]
    assert (one["low"], one["high"]) == pytest.approx(
        (beta.ppf(0.025, 4, 47), beta.ppf(0.975, 5, 46)), abs=1e-12
    )


def test_of_many_rows_it_is_as_wide_as_students():
    """To 3 % at 10,000 rows: nothing is lost where t holds."""
    rows = np.random.default_rng(0).beta(2, 3, 10_000)
    low, high = bounds(rows).wide
    assert high - low == pytest.approx(2 * 1.96 * rows.std() / 100, rel=0.03)


@pytest.mark.parametrize(("n", "h"), [(20, 20), (20, 90), (90, 20)])
def test_an_area_of_one_has_its_exact_bound(n, h):
    """If all pairs are in order with probability θ^min at most, θ may be as low as α^(1/min)."""
    found = draws(
        {("forget", "loss"): np.linspace(0, 1, n), ("holdout", "loss"): np.linspace(2, 3, h)}
    )["model", "membership_loss"]
    (low, high), fewest = found.bounds().wide, min(n, h)
    assert (low, high) == pytest.approx((0.025 ** (1 / fewest), 1), abs=2e-4)


def test_an_area_in_the_middle_has_delongs_width():
    """With 2,000 rows a side, his standard error, to 3 %."""
    random = np.random.default_rng(1)
    members, others = random.normal(0, 1, 2000), random.normal(0.5, 1, 2000)
    mine, theirs = weighted.placements(members, others)
    low, high = (
        draws({("forget", "loss"): members, ("holdout", "loss"): others})[
            "model", "membership_loss"
        ]
        .bounds()
        .wide
    )
    assert high - low == pytest.approx(
        2 * 1.96 * np.sqrt(mine.var() / 2000 + theirs.var() / 2000), rel=0.03
    )


@pytest.mark.parametrize(
    ("metric", "rows"),
    [
        ("answer_probability", [0.5]),  # one row
        ("answer_probability@relearned-1", [0.5, np.nan, np.nan]),
        ("answer_probability@relearned-1", [np.nan, np.nan]),
        ("answer_probability", [0.5, 1.2, 0.3]),  # not what the metric is
        ("rouge_recall", [0.5, -0.1]),
        ("of_another_program", [0.5, 0.6]),  # nothing is known of its range
    ],
)
def test_what_nothing_bounds_has_no_interval(metric, rows):
    """Neither one of no width nor a warning: no numbers at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = summarise(record({("forget", metric): np.array(rows)}), None, (), 0, 1000)
    assert set(found.values["forget"][metric]) == {"value"}


def test_a_set_of_one_row_gives_its_areas_no_interval():
    """Neither set knows how the next row would do."""
    found = summarise(
        record({("forget", "loss"): np.ones(1), ("holdout", "loss"): np.arange(30.0)}),
        None,
        (),
        0,
        1000,
    )
    assert set(found.values["model"]["membership_loss"]) == {"value"}


def test_rows_without_a_number_are_left_out():
    """The interval is that of the others, were they alone, to the draws' error."""
    rows = np.random.default_rng(2).random(60)
    gaps = np.where(np.arange(60) < 20, np.nan, rows)
    assert bounds(gaps).wide == pytest.approx(bounds(rows[20:]).wide, abs=0.01)


def test_limits_set_the_width():
    """N-gram entropy may be 16 bits in a row not seen.

    40 rows of 5 bits allow for 1 % … as for a share.
    """
    found = bounds(np.full(40, 5.0), "ngram_entropy")
    other = 1 - 0.025 ** (1 / 40)
    assert found.wide == pytest.approx((5 * (1 - other), 5 + 11 * other), abs=2e-3)


def test_the_range_of_every_metric_holds_its_interval():
    """No interval leaves what the metric can be."""
    for rows in (np.zeros(20), np.ones(20), np.linspace(0, 1, 20)):
        low, high = bounds(rows).wide
        assert 0 <= low <= rows.mean() <= high <= 1


def test_weights_are_the_seeds_and_the_names():
    """The same whatever other sets there are.

    Of another seed or name others; each weighting sums to 1.
    """
    one, other = (
        next(draw_weights(sizes, 0, 1000))
        for sizes in ({"a": 30, "b": 30}, {"b": 30, "a": 30, "c": 5})
    )
    assert all(np.array_equal(one[name].rows, other[name].rows) for name in "ab")
    assert not np.array_equal(one["a"].rows, one["b"].rows)
    assert not np.array_equal(one["a"].rows, next(draw_weights({"a": 30}, 1, 1000))["a"].rows)
    assert one["a"].rows.sum(axis=1) == pytest.approx(np.ones(1000))


def test_memory_is_bounded_by_blocks(monkeypatch):
    """Many small blocks give as many draws, and the same interval to their error."""
    rows = {("forget", "answer_probability"): np.linspace(0, 1, 50)}
    whole = draws(rows)["forget", "answer_probability"]
    monkeypatch.setattr(weighted, "_BLOCK", 50 * 64)
    sizes = [block["forget"].rows.shape for block in draw_weights({"forget": 50}, 0, RESAMPLES)]
    assert max(sizes) == (64, 50)
    parts = draws(rows)["forget", "answer_probability"]
    assert parts.ends[0].shape == whole.ends[0].shape == (RESAMPLES,)
    assert parts.bounds().wide == pytest.approx(whole.bounds().wide, abs=0.01)


def test_utility_widens_with_every_part():
    """The interval holds the value, and an unseen row could change all three parts at once."""
    parts = {"answer_probability": 0.9, "rouge_recall": 0.5, "truth_ratio": 0.4}
    rows = {("retain", part): np.full(40, level) for part, level in parts.items()}
    value = 3 / (1 / 0.9 + 1 / 0.5 + 1 / 0.4)
    (low, high), other = draws(rows)["model", "model_utility"].bounds().wide, 1 - 0.025 ** (1 / 40)
    assert low == pytest.approx(value * (1 - other), abs=1e-3)
    assert value < high < 1


def test_every_metric_with_an_interval_is_made_of_means_and_areas():
    """One number for each weighting.

    A metric that looks at rows themselves has to say `interval=False`.
    """
    random = np.random.default_rng(4)
    columns = {
        (name, metric): random.random(30)
        for name in ("forget", "retain", "holdout")
        for metric in row_metrics()
    }
    found = record(columns)
    (draws_by_metric,) = resample(
        [found.view(found)],
        dict.fromkeys(("forget", "retain", "holdout"), 30),
        model_metrics(),
        0,
        1000,
    )
    for name, metric in model_metrics().items():
        assert ("model", name) in draws_by_metric or not metric.interval
    assert {draws.ends[0].shape for draws in draws_by_metric.values()} == {(1000,)}


def test_a_metric_that_falls_where_its_rows_rise_has_an_interval_around_it():
    """Privacy leakage: the retained model's unseen row lies at the other end."""
    random = np.random.default_rng(3)
    columns = {
        ("forget", "min_k"): random.normal(0, 1, 60),
        ("holdout", "min_k"): random.normal(1, 1, 60),
    }
    retained = {key: random.normal(0.5 * (key[0] == "holdout"), 1, 60) for key in columns}
    one = summarise(record(columns), record(retained), (), 0, 4000).values["model"][
        "privacy_leakage"
    ]
    assert one["low"] < one["value"] < one["high"]
