"""One safetensors file, written in any order and hashed in the same pass.

The header and all offsets are known before any data. A frontier marks the complete part from the
start of the file: a block that begins at the frontier is hashed as it is written; other blocks are
read back from the page cache once their tensor is complete. For each tensor the writer keeps only
the number of missing bytes.
"""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from mpu_cli.checkpoint.buffers import read_pieces
from mpu_cli.checkpoint.header import TensorInfo, encode_header
from mpu_cli.checkpoint.modes import set_mode

METADATA = {"format": "pt"}
_WRITE_BACK = 64 << 20


class ShardFile:
    """A file that holds `tensors` in this order; offsets for `write` start after the header."""

    def __init__(
        self, path: Path, tensors: Sequence[TensorInfo], *, digest_file: bool, digest_tensors: bool
    ) -> None:
        self._path, self._digest_file, self._digest_tensors = path, digest_file, digest_tensors
        header = encode_header(list(tensors), METADATA)
        self._names = [info.name for info in tensors]
        self._missing = [info.nbytes for info in tensors]
        self._ends = list(accumulate(self._missing, initial=len(header)))
        """The end of the header, then the end of each tensor."""
        self.size = self._ends[-1]
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        set_mode(self._handle, 0o644)
        self._hash, self._tensor_hash = hashlib.sha256(), hashlib.sha256()
        self._current = self._flushed = 0
        """The first tensor that is not completely hashed."""
        self._frontier = len(header)
        self.digests: dict[str, str] = {}
        self._put(0, memoryview(header))
        self._hash.update(header)
        self._advance()

    @property
    def complete(self) -> bool:
        """Whether every byte has been written and hashed."""
        return self._frontier == self.size

    def write(self, offset: int, block: memoryview) -> None:
        """Write bytes of one tensor at an offset of the data; no byte may be written twice."""
        start = self._ends[0] + offset
        tensor = bisect_right(self._ends, start) - 1
        if (
            start < self._frontier
            or tensor >= len(self._missing)
            or len(block) > self._missing[tensor]
        ):
            raise ValueError(
                f"{self._path.name}: {len(block)} bytes at {start} overlap or lie outside"
            )
        self._put(start, block)
        self._missing[tensor] -= len(block)
        if start == self._frontier:
            self._digest(block)
        self._advance()

    def finish(self) -> tuple[str, int]:
        """Flush and close the file; return its SHA-256 (empty if not asked for) and size.

        Raises:
            ValueError: bytes are missing.
        """
        if not self.complete:
            raise ValueError(f"{self._path.name}: is incomplete after byte {self._frontier}")
        os.fdatasync(self._handle)
        self.close()
        return self._hash.hexdigest() if self._digest_file else "", self.size

    def close(self) -> None:
        """Close the file, complete or not."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _put(self, position: int, block: memoryview) -> None:
        while block:
            written = os.pwrite(self._handle, block, position)
            position, block = position + written, block[written:]

    def _advance(self) -> None:
        """Hash the rest of the current tensor and of the following ones, if they are complete."""
        while self._current < len(self._missing) and self._missing[self._current] == 0:
            left = self._ends[self._current + 1] - self._frontier
            for piece in read_pieces(self._path, self._frontier, left, "what was just written"):
                self._digest(piece)
            if self._digest_tensors:
                self.digests[self._names[self._current]] = self._tensor_hash.hexdigest()
                self._tensor_hash = hashlib.sha256()
            self._current += 1
        self._start_write_back()

    def _digest(self, block: memoryview) -> None:
        if self._digest_file:
            self._hash.update(block)
        if self._digest_tensors:
            self._tensor_hash.update(block)
        self._frontier += len(block)

    def _start_write_back(self) -> None:
        # Let the disk work while the rest is computed, so that the final fsync is short.
        if self._frontier - self._flushed >= _WRITE_BACK and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(
                self._handle, self._flushed, self._frontier - self._flushed, os.POSIX_FADV_DONTNEED
            )
            self._flushed = self._frontier
