"""The keyed stream: golden values, uniformity, and values that do not depend on the blocks."""

from itertools import pairwise
from math import log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpu_cli.server.publishing.noise import dealt
from mpu_cli.server.secrets.randomness import NORMAL_BLOCK, IntegerStream, derive_key, normals

MASTER = bytes(range(32))
KEY = derive_key(MASTER, "test", 1)


def test_derived_keys_have_fixed_values():
    """HKDF of a master, purpose and context never changes: issued handoffs depend on it."""
    assert (
        derive_key(MASTER, "noise", "0" * 32, 0, "model.layers.0.mlp.up_proj.weight").hex()
        == "22b9df9073aa1fbe10923f8de6fbe4f8c63f85354923c395792f3e6b2d6ca7d0"
    )
    assert (
        derive_key(MASTER, "offset", "x").hex()
        == "5c4425a06c49b9d785b37d26128edf6e65b56611d8b627a120a3ea18c99e0af9"
    )


def test_keys_of_different_purposes_and_contexts_differ():
    """Context parts are encoded without ambiguity.

    Moving a border between them, or a type, gives another key.
    """
    keys = [
        derive_key(MASTER, "noise", "a", 1),
        derive_key(MASTER, "noise", "a1"),
        derive_key(MASTER, "noise", "a", "1"),
        derive_key(MASTER, "noisea", 1),
        derive_key(MASTER, "noise", 1, "a"),
        derive_key(bytes(32), "noise", "a", 1),
    ]
    assert len(set(keys)) == len(keys)


def test_streams_have_fixed_values():
    """The first words, permutation, signs and normals of a key are those of format 1."""
    assert IntegerStream(KEY).words(2).tolist() == [17955929285843757372, 8479991522588382894]
    assert IntegerStream(KEY).permutation(12).tolist() == [8, 10, 7, 4, 11, 2, 1, 3, 5, 6, 9, 0]
    assert IntegerStream(KEY).signs(12).tolist() == [1, 1, 1, -1, -1, -1, 1, -1, 1, 1, -1, -1]
    assert IntegerStream(KEY).below(10, 8).tolist() == [2, 4, 6, 5, 5, 1, 0, 5]
    assert normals(KEY, 0, 4).tolist() == pytest.approx(
        [0.421402, -0.22754, 0.215049, 0.713913], abs=2e-6
    )
    assert normals(KEY, NORMAL_BLOCK, NORMAL_BLOCK + 2).tolist() == pytest.approx(
        [-0.115916, -0.501748], abs=2e-6
    )
    assert dealt(MASTER, "ab", (1.0, 1.5, 2.0, 2.5)) == (2.5, 1.0, 1.5, 2.0)


@given(size=st.integers(0, 300), number=st.integers(0, 10**6))
@settings(deadline=None, max_examples=50)
def test_permutations_are_permutations(size, number):
    """Fisher-Yates returns every number once, for any size."""
    drawn = IntegerStream(derive_key(MASTER, "p", number)).permutation(size)
    assert sorted(drawn.tolist()) == list(range(size)) and drawn.dtype == np.int64


def test_permutations_are_uniform():
    """All 24 orders of four things come up equally often (chi-square, 5 σ)."""
    stream = IntegerStream(KEY)
    counts = {}
    for _ in range(24_000):
        order = tuple(stream.permutation(4).tolist())
        counts[order] = counts.get(order, 0) + 1
    chi_square = sum((count - 1000) ** 2 / 1000 for count in counts.values())
    assert len(counts) == 24 and chi_square < 23 + 5 * (2 * 23) ** 0.5


def test_bounded_integers_and_signs_are_uniform():
    """`below` covers 0 … bound − 1 evenly, and signs are balanced (5 σ)."""
    drawn = IntegerStream(KEY).below(6, 120_000)
    counts = np.bincount(drawn, minlength=6)
    assert len(counts) == 6 and ((counts - 20_000) ** 2 / 20_000).sum() < 5 + 5 * 10**0.5
    assert abs(IntegerStream(KEY).signs(100_000).sum()) < 5 * 100_000**0.5


def test_biased_words_are_drawn_again():
    """Words of the incomplete last interval are rejected.

    Else a bound of 3 · 2⁶¹ returned its lower part more often.
    """
    drawn = IntegerStream(KEY).below(3 << 61, 20_000)
    assert drawn.min() >= 0 and drawn.max() < 3 << 61
    assert abs((drawn < (3 << 60)).mean() - 0.5) < 5 * 0.5 / 20_000**0.5


class Chosen(IntegerStream):
    """A stream of chosen words: those that are drawn again come once in 2⁶⁴."""

    def __init__(self, *words):
        super().__init__(KEY)
        self.left = list(words)

    def words(self, count):
        """The next of the chosen words."""
        taken, self.left = self.left[:count], self.left[count:]
        return np.array(taken, dtype=np.uint64)


LAST = 2**64 - 1
"""2⁶⁴ = 1 modulo 3: of the words below it each remainder comes equally often."""


def test_words_of_the_last_interval_are_drawn_again():
    """The first rejected word itself, and only that one."""
    assert Chosen(LAST, 5, 7, 8).below(3, 2).tolist() == [1, 2]
    assert Chosen(LAST - 1, 5).below(3, 2).tolist() == [2, 2]
    assert Chosen(LAST, LAST).below(2, 2).tolist() == [1, 1]
    assert Chosen(LAST, LAST, LAST, 4).permutation(3).tolist() == [0, 2, 1]
    assert Chosen(LAST - 1, LAST).permutation(3).tolist() == [0, 1, 2]


def test_words_are_read_in_order():
    """Two draws are one draw of both lengths."""
    stream, whole = IntegerStream(KEY), IntegerStream(KEY).words(7).tolist()
    assert stream.words(3).tolist() + stream.words(4).tolist() == whole


def test_the_largest_and_the_smallest_uniform_give_numbers():
    """1 has the radius 0, and 2⁻²⁴ the largest, 5.77; the logarithm never sees 0."""

    def radius(block, place):
        both = normals(KEY, block * NORMAL_BLOCK, (block + 1) * NORMAL_BLOCK)
        return float(both[[place, place + NORMAL_BLOCK // 2]].double().norm())

    assert radius(568, 23355) == 0.0
    assert radius(592, 27096) == pytest.approx(sqrt(48 * log(2)), rel=1e-6)


def test_no_normals_are_an_empty_tensor():
    """Anywhere in the stream."""
    assert normals(KEY, 0, 0).shape == normals(KEY, 5, 5).shape == (0,)
    assert normals(KEY, NORMAL_BLOCK, NORMAL_BLOCK).shape == (0,)


@given(
    cuts=st.lists(st.integers(0, 2 * NORMAL_BLOCK + 4321), min_size=0, max_size=5),
    start=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=15)
def test_normals_do_not_depend_on_blocking(cuts, start):
    """Reading the stream in any pieces gives the same numbers."""
    stop = 2 * NORMAL_BLOCK + 4321
    whole = normals(KEY, start, stop)
    borders = sorted({start, stop, *(cut for cut in cuts if cut > start)})
    pieces = [normals(KEY, first, last) for first, last in pairwise(borders)]
    assert torch.equal(torch.cat(pieces), whole)


def test_normals_are_standard_normal():
    """Four moments and the whole distribution (Kolmogorov-Smirnov) fit, at 5 σ."""
    count = 400_000
    values = normals(KEY, 0, count).double()
    centred = values - values.mean()
    deviation = float(centred.square().mean().sqrt())
    assert abs(float(values.mean())) < 5 / count**0.5
    assert abs(deviation - 1) < 5 / (2 * count) ** 0.5
    assert abs(float((centred**3).mean()) / deviation**3) < 5 * (6 / count) ** 0.5
    assert abs(float((centred**4).mean()) / deviation**4 - 3) < 5 * (24 / count) ** 0.5
    ordered = values.sort().values
    expected = torch.special.ndtr(ordered)
    ranks = torch.arange(count, dtype=torch.float64)
    distance = max(
        float(((ranks + 1) / count - expected).max()), float((expected - ranks / count).max())
    )
    assert distance * count**0.5 < 2.7  # P(exceeded) = 2 exp(−2 · 2.7²) < 1e-6


def test_neighbouring_normals_are_not_correlated():
    """Cosine and sine halves of a block, and neighbours, are uncorrelated (5 σ)."""
    values = normals(KEY, 0, NORMAL_BLOCK).double()
    half = NORMAL_BLOCK // 2
    assert abs(float((values[:half] * values[half:]).mean())) < 5 / half**0.5
    assert abs(float((values[1:] * values[:-1]).mean())) < 5 / (NORMAL_BLOCK - 1) ** 0.5
    assert (
        abs(float((values[:half].square() * values[half:].square()).mean()) - 1)
        < 5 * 8**0.5 / half**0.5
    )


def test_the_global_generators_are_not_touched():
    """No secret passes through torch's or numpy's generators, whose seeds can be searched."""
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    normals(KEY, 0, 10)
    IntegerStream(KEY).permutation(10)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1] == after[1]
