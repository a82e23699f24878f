"""Reusable buffers.

Every fresh 4 KiB page costs a page fault; for gigabytes that costs as much as hashing them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

from mpu_cli.errors import BadModelError

HASH_BLOCK = 512 << 10
"""Bytes read at once when they are only examined; a block of this size fits the CPU cache."""


class Pool:
    """A fixed number of buffers, allocated on first use, that go to a writer and come back.

    `take` blocks until a buffer is free, so the number bounds the memory and the write queue.
    """

    def __init__(self, count: int) -> None:
        self._free: Queue[bytearray] = Queue()
        for _ in range(count):
            self._free.put(bytearray())

    def take(self, nbytes: int) -> bytearray:
        """Return a buffer of at least `nbytes`."""
        buffer = self._free.get()
        return buffer if len(buffer) >= nbytes else bytearray(nbytes)

    def put(self, buffer: bytearray) -> None:
        """Return a buffer to the pool."""
        self._free.put(buffer)


def read_pieces(file: Path, start: int, nbytes: int, what: str) -> Iterator[memoryview]:
    """Read a range of a file; each piece is valid until the next one is read.

    Raises:
        BadModelError: the file ends inside `what`.
    """
    buffer = memoryview(bytearray(min(HASH_BLOCK, nbytes)))
    with file.open("rb", buffering=0) as opened:
        while nbytes:
            read = os.preadv(opened.fileno(), [buffer[:nbytes]], start)
            if read == 0:
                raise BadModelError(f"{file}: ends inside {what}", "copy the file again")
            yield buffer[:read]
            start, nbytes = start + read, nbytes - read
