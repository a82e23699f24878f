"""Verdicts are wrong, and intervals miss the truth, no more often than is promised.

The product's own, on simulated rows.
"""

import interval_errors as errors
import pytest

TRIALS = 500
CLOSE = ("30% of rows differ by 1", "two values, ± .3")
"""Distributions with error rates near the nominal 5 %: more trials separate them from 6 %."""
CASES = {case.name: case for case in errors.DIFFERENCES}
SPARSE = "1% of rows differ by 1, the others by noise of 0.001"


def _failed(found):
    return [one for one in found if not one.holds]


@pytest.mark.parametrize("name", ["minus exponential, sd .1", SPARSE, "30% of rows differ by 1"])
def test_few_trials_of_the_hard_cases(name):
    """Negative control: on skewed and sparse differences Student's t errs too often."""
    found = errors.differences(CASES[name], 20, 200, {"t": errors.student_interval})
    assert found.holds
    assert found.beside["t: equivalent"] > errors.WORST_ERROR


def test_few_trials_of_rates_and_areas():
    """A rate of .05 and an area of .99 with 20 rows.

    The percentile bootstrap misses them (negative control).
    """
    for found in (
        errors.values(errors.rate(0.05), 20, 200),
        errors.areas(errors.out_of_order(0.01), 20, 20, 100),
    ):
        assert found.holds
        assert found.beside["percentile: coverage"] < 0.8


def test_what_is_true_is_also_said():
    """No method that never says anything.

    100 equal rows are equivalent within .05, 100 rows that all rose by .1 different.
    """
    assert errors.power(CASES["normal, sd .02"], 100, 50, 0.05) == (1, 0)
    assert errors.power(CASES["normal, sd .1"], 100, 50, 0.05, mean=0.1)[1] > 0.9


def test_a_distribution_has_the_mean_that_it_says():
    """The truth that intervals are held against: 400,000 rows of each, to five standard errors."""
    for case in errors.DIFFERENCES:
        for mean in (0.0, case.margin, -case.margin):
            rows = case.rows(errors.np.random.default_rng(0), (1, 400_000), mean)
            assert rows.mean() == pytest.approx(mean, abs=5 * rows.std() / 632 + 1e-9), case.name
            assert abs(rows).max() <= 1
    for value in errors.VALUES:
        rows = value.rows(errors.np.random.default_rng(0), (1, 400_000))
        assert rows.mean() == pytest.approx(value.mean, abs=5 * rows.std() / 632)
    for scores in errors.AREAS:
        members, others = scores.rows(errors.np.random.default_rng(0), (1, 200_000), (1, 200_000))
        assert float(errors.auc(members, others)[0]) == pytest.approx(scores.area, abs=0.004)


@pytest.mark.slow
@pytest.mark.parametrize("n", errors.SIZES)
def test_error_rates_of_differences(n):
    """Verdicts at a difference of the margin and at none, and the interval, by distribution."""
    assert not _failed(
        errors.differences(case, n, 2000 if case.name in CLOSE else TRIALS, {})
        for case in errors.DIFFERENCES
    )


@pytest.mark.slow
@pytest.mark.parametrize("n", errors.SIZES)
def test_coverage_of_means_and_rates(n):
    """Near 0 and 1 as in the middle."""
    assert not _failed(errors.values(case, n, 2 * TRIALS) for case in errors.VALUES)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", errors.SIZES_OF_AREAS)
def test_coverage_of_areas_and_errors_of_their_differences(sizes):
    """Up to an area of .99, sets of one size or not."""
    assert not _failed(errors.areas(case, *sizes, TRIALS) for case in errors.AREAS)
    assert not _failed(errors.area_pairs(case, *sizes, TRIALS) for case in errors.AREA_PAIRS)
    assert not _failed(errors.leakage(case, *sizes, TRIALS) for case in errors.LEAKS)


@pytest.mark.slow
@pytest.mark.parametrize("n", errors.SIZES)
def test_utility(n):
    """Its interval, and the verdicts on a difference of none and of the margin."""
    assert not _failed(
        errors.utility(n, sets, means, TRIALS // 2, drop) for sets, means, drop in errors.UTILITIES
    )


def test_few_rows_say_nothing():
    """Below 20, whatever the rows."""
    for n in (6, 19):
        for mean in (0.0, 0.05):
            assert errors.power(CASES["all equal"], n, 20, 0.9, mean) == (0, 0)
