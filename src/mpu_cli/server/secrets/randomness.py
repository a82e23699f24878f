"""Random numbers from one 256-bit master: HKDF-SHA256 → AES-256-CTR → integers and normals.

torch's CPU generator is not used: it keeps 32 bits of its seed, which can be searched in minutes.
Integers (permutations, signs, angles) are bit-identical on every machine. Normals depend on the
processor's log, sin and cos, whose last bits differ between processors; later rounds need only
their distribution. Only normals import torch: transforms draw integers.
"""

from __future__ import annotations

import json
from math import pi
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

if TYPE_CHECKING:
    import torch

NORMAL_BLOCK = 65_536
"""Normals per block. It is part of the format: a change would change every secret."""

_BYTES_PER_NORMAL = 4
_AES_BLOCK = 16
_ZEROS = bytes(NORMAL_BLOCK * _BYTES_PER_NORMAL)


def derive_key(master: bytes, purpose: str, *context: str | int) -> bytes:
    """A 256-bit key for one purpose and context (RFC 5869); JSON encodes the context uniquely."""
    info = json.dumps(["mpu", 1, purpose, *context], separators=(",", ":")).encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(master)


def _keystream(key: bytes, start: int, length: int) -> bytes:
    # The counter block is the position in AES blocks, so any part of the stream can be read alone.
    counter = (start // _AES_BLOCK).to_bytes(_AES_BLOCK, "big")
    encryptor = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor()
    skip = start % _AES_BLOCK
    return encryptor.update(bytes(skip + length))[skip:]


class NormalBlocks:
    """The stream of normals of one key, a whole block at a time."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # The cipher needs room for one more AES block.
        self._words = np.empty(NORMAL_BLOCK + 4, dtype="<u4")

    def block(self, number: int, result: torch.Tensor) -> torch.Tensor:
        """Write block `number` of the standard normals into `result`, float32.

        Box and Muller (1958) on 24-bit uniforms: |z| ≤ 5.77.
        """
        import torch

        half = NORMAL_BLOCK // 2
        first = number * len(_ZEROS) // _AES_BLOCK
        cipher = Cipher(algorithms.AES(self._key), modes.CTR(first.to_bytes(_AES_BLOCK, "big")))
        cipher.encryptor().update_into(_ZEROS, self._words.data.cast("B"))
        words = self._words[:NORMAL_BLOCK]
        words >>= 8
        words += 1  # (0, 1]: the logarithm never sees zero
        # Values up to 2²⁴ are exact in both types; converting signed integers is faster.
        uniform = torch.from_numpy(words.view("<i4")).to(torch.float32).mul_(2.0**-24)
        radius, angle = uniform[:half], uniform[half:]
        radius.log_().mul_(-2.0).sqrt_()
        angle.mul_(2.0 * pi)
        torch.cos(angle, out=result[:half]).mul_(radius)
        torch.sin(angle, out=result[half:]).mul_(radius)
        return result


def normals(key: bytes, start: int, stop: int) -> torch.Tensor:
    """Standard normals number start..stop of a key's stream, float32, shape (stop − start,).

    Other pieces of the same stream give the same values.
    """
    import torch

    parts, stream = [], NormalBlocks(key)
    for block in range(start // NORMAL_BLOCK, -(-stop // NORMAL_BLOCK)):
        first = block * NORMAL_BLOCK
        parts.append(
            stream.block(block, torch.empty(NORMAL_BLOCK))[max(start - first, 0) : stop - first]
        )
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else torch.empty(0)


class IntegerStream:
    """Unbiased integers from one key, read in order."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._position = 0

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """The next `count` uniform 64-bit words."""
        raw = _keystream(self._key, self._position, 8 * count)
        self._position += 8 * count
        return np.frombuffer(raw, dtype="<u8")

    def below(self, bound: int, count: int) -> npt.NDArray[np.int64]:
        """`count` integers uniform in 0 … bound − 1.

        Words in the incomplete last interval are drawn again.
        """
        limit = (1 << 64) - (1 << 64) % bound
        words = self.words(count)
        while limit < 1 << 64 and bool((rejected := words >= np.uint64(limit)).any()):
            words = np.where(rejected, self.words(count), words)
        return (words % np.uint64(bound)).astype(np.int64)

    def permutation(self, size: int) -> npt.NDArray[np.int64]:
        """A uniform permutation of 0 … size − 1 (Fisher and Yates).

        numpy's own shuffle may change between versions.
        """
        order = list(range(size))
        words = [int(word) for word in self.words(max(size - 1, 0))]
        for last, drawn in zip(range(size - 1, 0, -1), words, strict=True):
            bound = last + 1
            word = drawn
            while word >= (1 << 64) - (1 << 64) % bound:
                word = int(self.words(1)[0])
            other = word % bound
            order[last], order[other] = order[other], order[last]
        return np.array(order, dtype=np.int64)

    def signs(self, count: int) -> npt.NDArray[np.int64]:
        """`count` uniform signs ±1."""
        return 1 - 2 * self.below(2, count)
