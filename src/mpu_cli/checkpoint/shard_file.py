"""One safetensors file that is written in any order and hashed in the same pass.

The header and all offsets are known before any data. A frontier follows what is complete from the front: a block that
arrives just there is hashed as it is written, anything else is read back (from the page cache) when the frontier
reaches it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from mpu_cli.checkpoint.buffers import read_pieces
from mpu_cli.checkpoint.header import TensorInfo, encode_header

METADATA = {"format": "pt"}
_WRITE_BACK = 64 << 20


class ShardFile:
    """A file that holds `tensors` in this order; offsets given to `write` are into its data, behind the header."""

    def __init__(self, path: Path, tensors: Sequence[TensorInfo], *, digest_file: bool, digest_tensors: bool) -> None:
        self._path, self._digest_file = path, digest_file
        header = encode_header(list(tensors), METADATA)
        self._data = len(header)
        self._names = [info.name for info in tensors] if digest_tensors else []
        self._ends: list[int] = []
        end = self._data
        for info in tensors:
            end += info.nbytes
            self._ends.append(end)
        self.size = end
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        os.fchmod(self._handle, 0o644)
        self._hash, self._tensor_hash = hashlib.sha256(), hashlib.sha256()
        self._frontier = self._flushed = 0
        self._waiting: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        self.digests: dict[str, str] = {}
        self._place(0, memoryview(header))
        self._end_tensors()

    @property
    def complete(self) -> bool:
        """Whether every byte has been written and hashed."""
        return self._frontier == self.size

    def write(self, offset: int, block: memoryview) -> None:
        """Put bytes at an offset of the data; no byte may be written twice."""
        self._place(self._data + offset, block)

    def finish(self) -> tuple[str, int]:
        """Flush to disk and close; SHA-256 (empty if not asked) and size of the file. Raises ValueError if bytes are missing."""
        if not self.complete:
            raise ValueError(f"{self._path.name}: is incomplete after byte {self._frontier}")
        os.fdatasync(self._handle)
        self.close()
        return self._hash.hexdigest() if self._digest_file else "", self.size

    def close(self) -> None:
        """Close the file, whatever is in it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _place(self, start: int, block: memoryview) -> None:
        end = start + len(block)
        if end > self.size or start < self._frontier:
            raise ValueError(f"{self._path.name}: {len(block)} bytes at {start} lie outside or over what is there")
        position, left = start, block
        while left:
            written = os.pwrite(self._handle, left, position)
            position, left = position + written, left[written:]
        if start != self._frontier:
            self._wait(start, end)
            return
        self._digest(block)
        while self._frontier in self._waiting:
            end = self._waiting.pop(self._frontier)
            del self._starts[end]
            for piece in read_pieces(self._path, self._frontier, end - self._frontier, "what was just written"):
                self._digest(piece)
        self._start_write_back()

    def _wait(self, start: int, end: int) -> None:
        """Remember a written range ahead of the frontier, joined with its neighbours."""
        if start in self._starts:
            start = self._starts.pop(start)
        if end in self._waiting:
            follower = self._waiting.pop(end)
            end = follower
        self._waiting[start] = end
        self._starts[end] = start

    def _digest(self, block: memoryview) -> None:
        if not block:
            return
        if self._digest_file:
            self._hash.update(block)
        if not self._names:
            self._frontier += len(block)
            return
        while block:
            if self._frontier < self._data:
                part = self._data - self._frontier
            else:
                part = self._ends[len(self.digests)] - self._frontier
                self._tensor_hash.update(block[:part])
            taken = min(part, len(block))
            self._frontier += taken
            block = block[taken:]
            self._end_tensors()

    def _end_tensors(self) -> None:
        while len(self.digests) < len(self._names) and self._frontier >= max(self._ends[len(self.digests)], self._data):
            self.digests[self._names[len(self.digests)]] = self._tensor_hash.hexdigest()
            self._tensor_hash = hashlib.sha256()

    def _start_write_back(self) -> None:
        # So that the disk works while the rest is computed; the fsync at the end then has little left to wait for.
        if self._frontier - self._flushed >= _WRITE_BACK and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._handle, self._flushed, self._frontier - self._flushed, os.POSIX_FADV_DONTNEED)
            self._flushed = self._frontier
