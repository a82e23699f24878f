"""Which bits of a file a test flips: one of each byte by default, all of them in the slow tests."""

from __future__ import annotations

import pytest

BITS_OF_A_BYTE = pytest.mark.parametrize(
    "bits_of_a_byte", [1, pytest.param(8, marks=pytest.mark.slow)], ids=["one bit", "every bit"]
)


def flipped_bits(nbytes: int, bits_of_a_byte: int) -> list[int]:
    """Positions of the bits; which bit of a byte changes from byte to byte."""
    return [8 * byte + (byte + bit) % 8 for byte in range(nbytes) for bit in range(bits_of_a_byte)]
