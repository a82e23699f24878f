"""The weights that cancel the noise, and what is left without all copies."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpu_cli.errors import UsageError
from mpu_cli.server.denoising import (
    check_coefficients,
    default_coefficients,
    error_order,
    residual_noise,
    weights,
)
from mpu_cli.server.publishing.noise import zero_sum_basis
from mpu_cli.server.publishing.settings import PAPER, PerturbSettings

alphas = st.lists(st.floats(0.1, 10), min_size=1, max_size=6)
node = st.integers(1, 40).map(lambda value: value / 8)
nodes = st.lists(
    st.tuples(node, st.sampled_from([-1, 1])).map(lambda pair: pair[0] * pair[1]),
    min_size=2,
    max_size=5,
    unique=True,
)


@given(alphas)
def test_harmonic_weights_sum_to_one_and_cancel(values):
    """Σ w_k = 1, every w_k > 0 and all w_k α_k are equal, so Σ w_k α_k ε_k = 0."""
    shares = weights("harmonic", values)
    assert sum(shares) == pytest.approx(1)
    assert all(weight > 0 for weight in shares)
    products = [weight * alpha for weight, alpha in zip(shares, values, strict=True)]
    assert products == pytest.approx([products[0]] * len(values))


@given(nodes, st.data())
@settings(max_examples=100)
def test_lagrange_weights_are_exact_on_polynomials(values, data):
    """Σ w_k p(x_k) = p(0) for every polynomial of degree below m: the error is of order m."""
    shares = weights("extrapolation", values)
    assert sum(shares) == pytest.approx(1)
    coefficients = data.draw(st.lists(st.floats(-5, 5), min_size=1, max_size=len(values)))
    terms = [
        weight * np.polyval(coefficients[::-1], x) for weight, x in zip(shares, values, strict=True)
    ]
    scale = sum(
        abs(weight) * np.polyval([abs(c) for c in coefficients[::-1]], abs(x))
        for weight, x in zip(shares, values, strict=True)
    )
    assert sum(terms) == pytest.approx(coefficients[0], abs=1e-12 * max(1, scale))


def test_lagrange_weights_are_not_exact_one_degree_higher():
    """Negative control: x^m is not extrapolated to zero."""
    for size in (2, 3, 4):
        values = default_coefficients("extrapolation", size)
        assert (
            abs(
                sum(
                    w * x**size
                    for w, x in zip(weights("extrapolation", values), values, strict=True)
                )
            )
            > 0.9
        )


def test_default_coefficients():
    """α run from 1 to 2 in equal steps.

    Nodes are the documented defaults (1, −1; 1, −1, 2; …); more than four copies need --nodes.
    """
    assert default_coefficients("harmonic", 1) == (1.0,)
    assert default_coefficients("harmonic", 2) == (1.0, 2.0)
    assert default_coefficients("harmonic", 3) == (1.0, 1.5, 2.0)
    assert default_coefficients("extrapolation", 4) == (1.0, -1.0, 1.5, -1.5)
    amplification = [
        sum(map(abs, weights("extrapolation", default_coefficients("extrapolation", m))))
        for m in (2, 3, 4)
    ]
    assert amplification == pytest.approx([1, 5 / 3, 2.6], rel=1e-9)
    with pytest.raises(UsageError) as refused:
        default_coefficients("extrapolation", 1)
    assert (refused.value.message, refused.value.hint) == ONE_COPY
    with pytest.raises(UsageError) as refused:
        default_coefficients("extrapolation", 5)
    assert (refused.value.message, refused.value.hint) == (
        "--denoising extrapolation has no default nodes for 5 copies",
        "give --nodes",
    )


ALPHAS = ("--alphas: every alpha must be a positive number, from 1e-06 to 1e+06", None)
NODES = (
    "--nodes: nodes must be distinct and not zero, with magnitudes from 1e-06 to 1e+06",
    None,
)
ONE_COPY = (
    "--denoising extrapolation needs at least two copies",
    "give --copies 2 or more",
)


@pytest.mark.parametrize(
    ("denoising", "values", "expected"),
    [
        ("harmonic", (1.0, 0.0), ALPHAS),
        ("harmonic", (1.0, -2.0), ALPHAS),
        ("harmonic", (1.0, float("inf")), ALPHAS),
        ("harmonic", (1.0, 1e-320), ALPHAS),
        ("harmonic", (float("nan"), 1.0), ALPHAS),
        ("extrapolation", (1.0,), ONE_COPY),
        ("extrapolation", (1.0, 1.0), NODES),
        ("extrapolation", (1.0, 0.0), NODES),
        ("extrapolation", (float("nan"), 1.0), NODES),
        ("extrapolation", (1.0, float("-inf")), NODES),
    ],
)
def test_senseless_coefficients_are_refused(denoising, values, expected):
    """An α that is not positive is a usage error, and so are equal, zero or infinite nodes."""
    with pytest.raises(UsageError) as refused:
        check_coefficients(denoising, values)
    assert (refused.value.message, refused.value.hint) == expected


def test_coefficients_at_the_border_are_accepted():
    """Small and large α, equal ones too; two nodes are enough, below one and negative."""
    check_coefficients("harmonic", (1e-6, 1e6))
    check_coefficients("harmonic", (0.5, 0.5))
    check_coefficients("extrapolation", (0.5, -0.5))


@pytest.mark.parametrize(
    "given_",
    [
        {"copies": 0},
        {"kappa": -0.1},
        {"kappa": float("nan")},
        {"kappa": float("inf")},
        {"offset": -1.0},
        {"offset": float("nan")},
        {"split": True, "copies": 1},
        {"alphas": (1.0,)},
        {"alphas": (1.0, 1.0), "denoising": "extrapolation", "copies": 2},
        {"nodes": (1.0, -1.0), "copies": 2},
        {"denoising": "extrapolation", "copies": 1},
        {"denoising": "extrapolation", "copies": 5},
        {"alphas": (1.0, 2.0, 0.0)},
        {"nodes": (1.0, 1.0, 2.0), "denoising": "extrapolation"},
    ],
)
def test_contradicting_settings_are_refused(given_):
    """Values outside the documented ranges, and the other denoising's scalars, are usage errors."""
    with pytest.raises(UsageError):
        PerturbSettings(**given_)


def test_the_papers_preset():
    """`--preset paper` is the authors' run.

    rotation, harmonic, κ = .01, two copies, bfloat16, nothing frozen.
    """
    settings_ = PerturbSettings(**PAPER)
    assert (settings_.reparam, settings_.denoising, settings_.kappa, settings_.copies) == (
        "paper-rotation",
        "harmonic",
        0.01,
        2,
    )
    assert (settings_.dtype, settings_.train_embeddings) == ("bfloat16", True)


def epsilons(size, count=200_000, seed=0):
    """(m, N) zero-sum noise of standard deviation 1, drawn here as the paper does.

    M draws minus their mean.
    """
    drawn = np.random.default_rng(seed).standard_normal((size, count))
    return (
        drawn - drawn.mean(axis=0)
        if size == 1
        else sqrt(size / (size - 1)) * (drawn - drawn.mean(axis=0))
    )


def test_helmert_draws_have_the_papers_distribution():
    """m−1 draws through the basis have the covariance of m draws minus their mean."""
    for size in (2, 3, 5):
        ours = (
            sqrt(size / (size - 1))
            * zero_sum_basis(size)
            @ np.random.default_rng(1).standard_normal((size - 1, 200_000))
        )
        assert np.abs(np.cov(ours) - np.cov(epsilons(size))).max() < 0.02


@pytest.mark.parametrize(
    ("coefficients", "present"),
    [
        ((1.0, 1.5, 2.0), (0, 1, 2)),
        ((1.0, 1.5, 2.0), (0, 1)),
        ((1.0, 1.5, 2.0), (2,)),
        ((1.0, 1.25, 1.5, 1.75, 2.0), (0, 3, 4)),
        ((1.0, 1.0), (0,)),
        ((2.5,), (0,)),
    ],
)
def test_residual_noise_of_harmonic_is_what_a_simulation_leaves(coefficients, present):
    """With copies missing, Σ w_k α_k ε_k over those that are there has the stated size.

    With all there it is zero.
    """
    size = len(coefficients)
    noise = epsilons(size) if size > 1 else np.random.default_rng(0).standard_normal((1, 200_000))
    chosen = [coefficients[k] for k in present]
    left = sum(
        w * alpha * noise[k]
        for w, alpha, k in zip(weights("harmonic", chosen), chosen, present, strict=True)
    )
    assert residual_noise("harmonic", coefficients, present) == pytest.approx(
        float(left.std()), rel=0.01, abs=1e-12
    )


def test_residual_noise_of_extrapolation():
    """Any two nodes still cancel the first order; one alone leaves its node."""
    values = (1.0, -1.0, 2.0)
    assert residual_noise("extrapolation", values, (0, 1, 2)) == pytest.approx(0)
    assert residual_noise("extrapolation", values, (0, 2)) == pytest.approx(0)
    assert residual_noise("extrapolation", values, (2,)) == 2.0


def test_the_order_of_the_error():
    """First with one copy or an offset, second with harmonic denoising, m with extrapolation."""
    assert [error_order("harmonic", m, offset=False) for m in (1, 2, 5)] == [1, 2, 2]
    assert [error_order("extrapolation", m, offset=False) for m in (2, 3, 4)] == [2, 3, 4]
    assert (
        error_order("extrapolation", 4, offset=True) == error_order("harmonic", 3, offset=True) == 1
    )
