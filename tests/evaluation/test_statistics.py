"""Areas, bounds and verdicts by themselves.

How often they are wrong is simulated in tests/benchmarks/test_interval_errors.py.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mpu_cli.evaluation.columns import mean
from mpu_cli.evaluation.robustness.leak import expected_best
from mpu_cli.evaluation.statistics import (
    DIFFERENT,
    EQUIVALENT,
    FEWEST,
    NO_MARGIN,
    UNDECIDED,
    Bounds,
    Resampled,
    auc,
    harmonic_mean,
    placements,
    rate_interval,
    rows_needed,
    verdict,
)

FEW = hypothesis_settings(max_examples=60, deadline=None)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
    st.lists(st.integers(0, 5), min_size=1, max_size=9),
)
@FEW
def test_areas_are_the_share_of_pairs(members, others):
    """Every pair of a member and another, ties a half.

    Vectorised over leading axes, and from either side's placements.
    """
    pairs = np.array([[(a < b) + 0.5 * (a == b) for b in others] for a in members])
    a, b = np.array(members, float), np.array(others, float)
    assert float(auc(a, b)) == pytest.approx(pairs.mean())
    assert auc(np.stack([a, a]), np.stack([b, b])) == pytest.approx([pairs.mean()] * 2)
    assert float(auc(a, b) + auc(b, a)) == pytest.approx(1)
    mine, theirs = placements(a, b)
    assert mine == pytest.approx(pairs.mean(axis=1))
    assert theirs == pytest.approx(pairs.mean(axis=0))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.data())
@FEW
def test_expected_best_is_the_mean_over_all_subsets(scores, data):
    """Brute force; one try is the mean, all tries the maximum, more tries never less."""
    k = data.draw(st.integers(1, len(scores)))
    values = np.array(scores)
    assert expected_best(values, k) == pytest.approx(
        np.mean([max(chosen) for chosen in itertools.combinations(scores, k)])
    )
    curve = [expected_best(values, tries) for tries in range(1, len(scores) + 1)]
    assert curve[0] == pytest.approx(np.mean(scores))
    assert curve[-1] == pytest.approx(max(scores))
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(curve))


def test_bounds_are_the_outer_quantiles_of_both_ends():
    """Whichever end is the lower one: a metric may fall where its rows rise."""
    low, high = (np.arange(1000) + 0.5) / 1000, (np.arange(1000) + 0.5) / 1000 + 1
    for ends in ((low, high), (high, low)):
        found = Resampled(ends).bounds()
        assert found.wide == pytest.approx((0.025, 1.975))
        assert found.narrow == pytest.approx((0.05, 1.95))
    assert Resampled((low, np.where(low == low.min(), np.nan, high))).bounds() is None


@pytest.mark.parametrize(
    ("wide", "narrow", "margin", "said"),
    [
        ((-0.02, 0.02), (-0.01, 0.01), 0.015, EQUIVALENT),  # by the 90 % interval
        (
            (0.001, 0.02),
            (0.002, 0.01),
            0.015,
            EQUIVALENT,
        ),  # however sure it is that there is a difference
        ((0.001, 0.02), (0.002, 0.016), 0.015, DIFFERENT),
        ((-0.02, -0.001), (-0.016, -0.002), 0.015, DIFFERENT),
        ((-0.001, 0.02), (0.001, 0.016), 0.015, UNDECIDED),  # different takes the 95 % interval
        ((-0.02, 0.02), (-0.015, 0.01), 0.015, UNDECIDED),  # the margin itself is outside
        ((0.0, 0.0), (0.0, 0.0), None, NO_MARGIN),
        ((0.001, 0.02), (0.002, 0.016), None, DIFFERENT),
    ],
)
def test_verdicts(wide, narrow, margin, said):
    """Two one-sided tests at 5 %, then one two-sided test at 5 %."""
    assert verdict(Bounds(wide, narrow), margin) == said


@pytest.mark.parametrize(
    ("margin", "span", "rows"),
    [
        (0.05, 1, 59),
        (0.01, 1, 299),
        (0.003, 1, 998),
        (0.16, 16, 299),
        (0.9, 1, FEWEST),
        (2, 1, FEWEST),
    ],
)
def test_rows_needed(margin, span, rows):
    """By hand: .95^59 is below .05, .95^58 is not.

    A metric of 16 bits needs as many rows for 1 % of its range.
    """
    assert rows_needed(margin, span) == rows
    if rows > FEWEST:
        assert (1 - margin / span) ** rows < 0.05 < (1 - margin / span) ** (rows - 1)


@pytest.mark.parametrize(
    ("ones", "n", "low", "high"),
    [(0, 40, 0, 0.0881), (1, 20, 0.0013, 0.2487), (10, 20, 0.272, 0.728), (5, 5, 0.4782, 1)],
)
def test_rates_have_the_exact_interval(ones, n, low, high):
    """Clopper and Pearson's, from printed tables."""
    assert rate_interval(np.arange(n) < ones) == pytest.approx((low, high), abs=1e-4)


def test_the_harmonic_mean():
    """Of 1, 2, 4 it is 12/7; of a zero 0, without a warning; entry by entry over weightings."""
    with np.errstate(all="raise"):
        assert float(harmonic_mean([np.array(1.0), np.array(2.0), np.array(4.0)])) == pytest.approx(
            12 / 7
        )
        assert float(harmonic_mean([np.array(1.0), np.array(0.0)])) == 0
        assert harmonic_mean([np.array([1.0, 0.0]), np.array([1.0, 1.0])]) == pytest.approx([1, 0])


def test_means_ignore_rows_without_a_number(recwarn):
    """Relearning leaves taught rows out.

    Where all are left out there is no mean, and no warning.
    """
    assert float(mean(np.array([np.nan, 1.0, 3.0]))) == 2
    assert np.isnan(mean(np.array([np.nan])))
    assert not recwarn.list
