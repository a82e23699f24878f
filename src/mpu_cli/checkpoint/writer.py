"""Write a safetensors checkpoint block by block, in any order, in a separate thread.

Each file is byte for byte what `safetensors.torch.save_file` writes for the same tensors, and the
writer holds only a few blocks in memory. The same pass computes the SHA-256 of every file, and of
every tensor if asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

from mpu_cli.checkpoint.header import FLOAT_DTYPES, TensorInfo, file_order
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.settings import DEFAULT_SHARD_BYTES
from mpu_cli.checkpoint.shard_file import ShardFile

if TYPE_CHECKING:
    import numpy as np

_QUEUED = 2
"""The number of blocks that may wait for the disk."""


def plan_shards(
    tensors: Iterable[TensorInfo], max_bytes: int, stem: str = "model"
) -> dict[str, list[TensorInfo]]:
    """Split tensors, in file order, into files of at most `max_bytes`.

    A larger tensor gets its own file.
    """
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for info in file_order(tensors):
        if shards[-1] and size + info.nbytes > max_bytes:
            shards.append([])
            size = 0
        shards[-1].append(info)
        size += info.nbytes
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    total = len(shards)
    return {shard_name(stem, number, total): shard for number, shard in enumerate(shards, 1)}


def shard_name(stem: str, number: int, total: int) -> str:
    """The name of shard `number` of `total`, counted from 1."""
    return f"{stem}-{number:05d}-of-{total:05d}.safetensors"


def index_name(stem: str) -> str:
    """The name of the index that lies beside shards."""
    return f"{stem}.safetensors.index.json"


Files = dict[str, tuple[str, int]]
"""SHA-256 and size by file name."""


@dataclass(frozen=True, slots=True)
class Written:
    """Digest (empty if not asked for) and size by file name, and SHA-256 by tensor if asked for."""

    files: Files
    tensors: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Part:
    shard: str
    offsets: list[int]
    blocks: list[memoryview]
    done: Callable[[], None] | None


class CheckpointWriter:
    """Write the given tensors into `directory`.

    The caller must not change a block before it is written; `done` is called when the writer no
    longer needs the block, written or not. The next call raises errors of the writing thread, such
    as a full disk. `close` checks that nothing is missing, writes the index if there are shards,
    and returns the digests. `abort` leaves no thread and no open file.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Iterable[TensorInfo],
        *,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        stem: str = "model",
        digest_files: bool = True,
        digest_tensors: bool = False,
    ) -> None:
        self._directory, self._stem = directory, stem
        self._digest_files, self._digest_tensors = digest_files, digest_tensors
        self._shards = plan_shards(tensors, max_shard_bytes, stem)
        self.order = [info for infos in self._shards.values() for info in infos]
        """The tensors in the order in which `write` expects them."""
        self._places: dict[str, tuple[str, int, int]] = {}
        for shard, infos in self._shards.items():
            offset = 0
            for info in infos:
                self._places[info.name] = (shard, offset, info.nbytes)
                offset += info.nbytes
        self._next, self._filled = 0, 0
        self._files: Files = {}
        self._tensors: dict[str, str] = {}
        self._open: dict[str, ShardFile] = {}
        self._queue: Queue[_Part | None] = Queue(_QUEUED)
        self._error: BaseException | None = None
        self._aborted = False
        self._thread = threading.Thread(
            target=self._work, name=f"write {directory.name}", daemon=True
        )
        self._thread.start()

    def write(self, block: bytes | memoryview, done: Callable[[], None] | None = None) -> None:
        """Append bytes to the current tensor of `order`; a block belongs to one tensor."""
        while self._next < len(self.order) and self._filled == self.order[self._next].nbytes:
            self._next, self._filled = self._next + 1, 0
        self.write_at(self.order[self._next].name, self._filled, block, done)
        self._filled += len(block)

    def write_at(
        self,
        name: str,
        offset: int,
        block: bytes | memoryview,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Write bytes at an offset of a tensor; calls may come in any order."""
        shard, start, size = self._places[name]
        if offset + len(block) > size:
            raise ValueError(f"{len(block)} bytes at {offset} for {name}, which has {size}")
        if block:
            self._put(_Part(shard, [start + offset], [memoryview(block)], done))

    def write_rows(
        self, name: str, rows: np.ndarray, block: memoryview, done: Callable[[], None] | None = None
    ) -> None:
        """Write whole rows of a tensor (first axes flattened); `rows` ascends like `block`."""
        shard, start, size = self._places[name]
        width = len(block) // len(rows)
        import numpy as np  # not above: whoever only reads imports this module, too

        # Write consecutive rows at once.
        first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        offsets = (start + rows[first] * width).tolist()
        bounds = [*(first * width).tolist(), len(block)]
        if (int(rows[-1]) + 1) * width > size:
            raise ValueError(f"row {rows[-1]} lies outside {name}")
        self._put(_Part(shard, offsets, [block[a:b] for a, b in pairwise(bounds)], done))

    def close(self) -> Written:
        """Wait for the disk, then finish the files and the index.

        Raises:
            ValueError: bytes are missing.
        """
        self._queue.put(None)
        self._thread.join()
        self._raise()
        for shard in self._shards:
            if shard not in self._files:
                self._finish(shard)
        if len(self._shards) > 1:
            self._write_index()
        return Written(self._files, self._tensors)

    def abort(self) -> None:
        """Stop writing and close the open files; after `close` this does nothing."""
        self._aborted = True
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _put(self, part: _Part) -> None:
        if self._error is not None and part.done is not None:
            part.done()
        self._raise()
        self._queue.put(part)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        # Empty the queue even after an error, so that no caller waits forever.
        while (part := self._queue.get()) is not None:
            if self._error is None and not self._aborted:
                try:
                    self._write(part)
                except BaseException as error:
                    self._error = error
            if part.done is not None:
                part.done()

    def _write(self, part: _Part) -> None:
        file = self._file(part.shard)
        for offset, block in zip(part.offsets, part.blocks, strict=True):
            file.write(offset, block)
        if file.complete:
            self._finish(part.shard)

    def _file(self, shard: str) -> ShardFile:
        if shard in self._files:
            raise ValueError(f"{shard}: is already complete")
        if shard not in self._open:
            self._open[shard] = ShardFile(
                self._directory / shard,
                self._shards[shard],
                digest_file=self._digest_files,
                digest_tensors=self._digest_tensors,
            )
        return self._open[shard]

    def _finish(self, shard: str) -> None:
        file = self._file(shard)
        self._files[shard] = file.finish()
        self._tensors.update(file.digests)
        del self._open[shard]

    def _write_index(self) -> None:
        total = sum(info.nbytes for info in self.order)
        elements = sum(info.elements for info in self.order)
        index = {
            "metadata": {"total_parameters": elements, "total_size": total},
            "weight_map": dict(sorted((name, place[0]) for name, place in self._places.items())),
        }
        name = index_name(self._stem)
        self._files[name] = write_new(
            self._directory / name, (json.dumps(index, indent=2) + "\n").encode()
        )


def write_new(path: Path, data: bytes, mode: int = 0o644) -> tuple[str, int]:
    """Write a new small file with exactly this mode; return its SHA-256 and size."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        set_mode(file.fileno(), mode, path)
        file.write(data)
    return hashlib.sha256(data).hexdigest(), len(data)


def with_dtype(tensors: Iterable[TensorInfo], dtype: str | None) -> list[TensorInfo]:
    """Return the tensors with the floating-point ones in another dtype; None keeps their dtypes."""
    return [
        replace(info, dtype=dtype) if dtype and info.dtype in FLOAT_DTYPES else info
        for info in tensors
    ]
