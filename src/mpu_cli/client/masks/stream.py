"""The masks of one member: AES-256-CTR streams that each pair of members derives alike.

For members i < j (by public key) the stream s_ij is added by i and subtracted by j, so it cancels
in the sum (Bonawitz et al. 2017, doi:10.1145/3133956.3133982, without their recovery from lost
members). Its key is HKDF-SHA256 of the pair's X25519 secret; the context names the handoff, the
group, the pair, the copy and the tensor, so no stream is used twice. Entry e of a tensor gets the
little-endian bytes 4e … 4e + 3 of the stream.
"""

from __future__ import annotations

import json

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mpu_cli.client.masks.group import MaskGroup
from mpu_cli.client.masks.key import MaskKey

Words = npt.NDArray[np.uint32]
_BLOCK = 1 << 16
_ZEROS = bytes(4 * _BLOCK)


class MaskSource:
    """Gives the masks of one member for its update of one handoff."""

    def __init__(self, key: MaskKey, group: MaskGroup, handoff: str) -> None:
        """`handoff` is the handoff's digest.

        Raises:
            BadInputError: the key is not in the group.
        """
        own = group.number_of(key)
        self._context = ("mpu-mask", 1, handoff, group.digest)
        self._pairs = [
            (number > own, key.shared_with(public), sorted((key.public, public)))
            for number, public in enumerate(group.keys, 1)
            if number != own
        ]

    def of(self, copy: str, tensor: str) -> TensorMask:
        """The mask of one tensor of one copy."""
        streams = []
        for added, secret, pair in self._pairs:
            info = json.dumps([*self._context, *pair, copy, tensor], separators=(",", ":")).encode()
            key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(secret)
            streams.append((added, Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()))
        return TensorMask(streams)


class TensorMask:
    """The sum of a member's streams for one tensor, modulo 2³², read from the first entry on."""

    def __init__(self, streams: list[tuple[bool, CipherContext]]) -> None:
        self._streams = streams
        self._words = np.empty(_BLOCK + 4, dtype="<u4")  # the cipher needs room for one AES block

    def add_to(self, values: Words) -> None:
        """Add the next `len(values)` entries in place."""
        for start in range(0, len(values), _BLOCK):
            part = values[start : start + _BLOCK]
            for added, stream in self._streams:
                stream.update_into(_ZEROS[: 4 * len(part)], self._words.data.cast("B"))
                words = self._words[: len(part)]
                if added:
                    part += words
                else:
                    part -= words
