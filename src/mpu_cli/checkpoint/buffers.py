"""Memory that is used again.

Every fresh 4 KiB page costs a fault, which at gigabytes is as dear as hashing them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

from mpu_cli.errors import BadModelError

HASH_BLOCK = 512 << 10
"""Bytes read at once where they are only looked at: they stay in the processor's cache."""


class Pool:
    """A fixed number of buffers, made when first needed, that travel to a writer and come back.

    Whoever takes one waits until it is there; so the number bounds both the memory and what waits
    for the disk.
    """

    def __init__(self, count: int) -> None:
        self._free: Queue[bytearray] = Queue()
        for _ in range(count):
            self._free.put(bytearray())

    def take(self, nbytes: int) -> bytearray:
        """A buffer of at least `nbytes`."""
        buffer = self._free.get()
        return buffer if len(buffer) >= nbytes else bytearray(nbytes)

    def put(self, buffer: bytearray) -> None:
        """Give a buffer back."""
        self._free.put(buffer)


def read_pieces(file: Path, start: int, nbytes: int, what: str) -> Iterator[memoryview]:
    """Read a range of a file; every piece is valid until the next one is asked for.

    Raises:
        BadModelError: the file ends before, inside `what`.
    """
    buffer = memoryview(bytearray(min(HASH_BLOCK, nbytes)))
    with file.open("rb", buffering=0) as opened:
        while nbytes:
            read = os.preadv(opened.fileno(), [buffer[:nbytes]], start)
            if read == 0:
                raise BadModelError(f"{file}: ends inside {what}", "copy the file again")
            yield buffer[:read]
            start, nbytes = start + read, nbytes - read
