"""Intervals cover what they promise, and verdicts say what the rows can tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mpu_cli.evaluation.metric import mean
from mpu_cli.evaluation.robustness.leak import expected_best
from mpu_cli.evaluation.statistics import DIFFERENT, EQUIVALENT, UNDECIDED, auc, equivalence, harmonic_mean, interval, resampled

FEW = hypothesis_settings(max_examples=60, deadline=None)


@pytest.mark.parametrize("kind", ["mean", "area"])
def test_the_interval_covers_the_truth(kind):
    """200 samples of skewed data: 88 to 99 of 100 intervals hold the true mean, or the true area."""
    rng, hits, trials = np.random.default_rng(0), 0, 200
    for trial in range(trials):
        rows = resampled({"forget": 60, "holdout": 50}, trial, 400)
        mine = rng.exponential(1.0, 60)
        if kind == "mean":
            truth, draws = 1.0, mine[rows["forget"]].mean(-1)
        else:
            other = rng.exponential(2.0, 50)
            truth, draws = 2 / 3, auc(mine[rows["forget"]], other[rows["holdout"]])  # P(Exp(1) < Exp(mean 2))
        low, high = interval(draws)
        hits += low <= truth <= high
    assert 0.88 <= hits / trials <= 0.99


def test_resamples_are_the_seeds_and_the_names():
    """Rows of one set are the same in every record; two sets of one size, or two seeds, draw others."""
    one, other = resampled({"a": 30, "b": 30}, 0, 100), resampled({"b": 30, "a": 30, "c": 5}, 0, 100)
    assert all(np.array_equal(one[name], other[name]) for name in "ab")
    assert not np.array_equal(one["a"], one["b"])
    assert not np.array_equal(one["a"], resampled({"a": 30}, 1, 100)["a"])
    assert one["a"].shape == (100, 30)
    assert set(one["a"].ravel()) == set(range(30))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.lists(st.integers(0, 5), min_size=1, max_size=9))
@FEW
def test_areas_are_the_share_of_pairs(members, others):
    """Every pair of a member and another, ties a half; and vectorised over resamples."""
    pairs = [(a < b) + 0.5 * (a == b) for a, b in itertools.product(members, others)]
    a, b = np.array(members, float), np.array(others, float)
    assert float(auc(a, b)) == pytest.approx(np.mean(pairs))
    assert auc(np.stack([a, a]), np.stack([b, b])) == pytest.approx([np.mean(pairs)] * 2)
    assert float(auc(a, b) + auc(b, a)) == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
@FEW
def test_expected_best_is_the_mean_over_all_subsets(scores, data):
    """Brute force; one try is the mean, all tries the maximum, more tries never less."""
    k = data.draw(st.integers(1, len(scores)))
    values = np.array(scores)
    assert expected_best(values, k) == pytest.approx(np.mean([max(chosen) for chosen in itertools.combinations(scores, k)]))
    curve = [expected_best(values, tries) for tries in range(1, len(scores) + 1)]
    assert curve[0] == pytest.approx(np.mean(scores))
    assert curve[-1] == pytest.approx(max(scores))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve))


def verdict(differences, margin, seed=0) -> str:
    """Of rows' differences."""
    values = np.array(differences, float)
    return equivalence(values[resampled({"x": len(values)}, seed, 1000)["x"]].mean(-1), margin)


@given(st.integers(6, 80), st.floats(1e-6, 1.0))
@FEW
def test_identical_models_are_equivalent(n, margin):
    """Differences of 0 lie within any margin."""
    assert verdict(np.zeros(n), margin) == EQUIVALENT


@given(st.integers(20, 80), st.floats(1.0, 50.0), st.sampled_from([-1, 1]), st.integers(0, 5))
@FEW
def test_a_large_shift_is_different(n, shift, sign, seed):
    """Ten standard deviations beyond the margin, in either direction."""
    rng = np.random.default_rng(seed)
    assert verdict(sign * shift + rng.normal(0, shift / 10, n), shift / 100) == DIFFERENT


@given(st.integers(0, 20))
@FEW
def test_few_noisy_rows_are_not_enough(seed):
    """Noise a hundred times the margin around 0 can show neither."""
    noise = np.random.default_rng(seed).normal(0, 1, 8)
    assert verdict(noise - noise.mean(), 0.01) == UNDECIDED


@given(st.integers(0, 20))
@FEW
def test_a_difference_within_the_margin_is_equivalent_however_significant(seed):
    """0.2 ± 0.01 is not 0, and is less than 1."""
    rng = np.random.default_rng(seed)
    rows = 0.2 + rng.normal(0, 0.05, 50)
    assert interval(rows[resampled({"x": 50}, 0, 1000)["x"]].mean(-1))[0] > 0
    assert verdict(rows, 1.0) == EQUIVALENT
    assert verdict(rows, 0.1) == DIFFERENT


def test_the_harmonic_mean():
    """Of 1, 2, 4 it is 12/7; of a zero 0, without a warning; entry by entry over resamples."""
    with np.errstate(all="raise"):
        assert float(harmonic_mean([np.array(1.0), np.array(2.0), np.array(4.0)])) == pytest.approx(12 / 7)
        assert float(harmonic_mean([np.array(1.0), np.array(0.0)])) == 0
        assert harmonic_mean([np.array([1.0, 0.0]), np.array([1.0, 1.0])]) == pytest.approx([1, 0])


def test_means_and_intervals_ignore_rows_without_a_number(recwarn):
    """Relearning leaves taught rows out; a resample of such rows only has no mean, and the interval none of it."""
    values = np.array([np.nan, 1.0, 3.0])
    assert float(mean(values)) == 2
    draws = mean(values[np.array([[0, 0, 0], [0, 1, 1], [2, 2, 0], [1, 2, 0]])])
    assert draws[1:] == pytest.approx([1, 3, 2])
    low, high = interval(draws)
    assert 1 <= low < high <= 3
    assert not recwarn.list
