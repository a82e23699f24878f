"""A safetensors checkpoint written front to back: header first, then each tensor as it is computed.

A file that holds the same tensors is byte for byte what `safetensors.torch.save_file` writes; the writer never holds
more than the block it is given. SHA-256 of every file, and of every tensor where asked, is computed in the same pass.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from mpu_cli.checkpoint.header import FLOAT_DTYPES, TensorInfo, encode_header, file_order
from mpu_cli.checkpoint.model import INDEX_FILE
from mpu_cli.errors import UsageError

METADATA = {"format": "pt"}
DEFAULT_SHARD_BYTES = 50 * 10**9
"""transformers 5's own default, so that most models stay in one file."""


def parse_size(text: str) -> int:
    """Parse `5GB`, `200MB` or plain bytes as huggingface_hub does (decimal units)."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    cleaned = text.strip().upper()
    factor = units.get(cleaned[-2:], 1)
    number = cleaned[:-2] if factor > 1 else cleaned
    try:
        size = int(float(number) * factor)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise UsageError(f"--max-shard-size {text}: not a size", "write for instance 5GB or 200MB")
    return size


def plan_shards(tensors: Iterable[TensorInfo], max_bytes: int, stem: str = "model") -> dict[str, list[TensorInfo]]:
    """Split tensors into files of at most `max_bytes` (a larger tensor gets a file of its own), in file order."""
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
    return {f"{stem}-{number:05d}-of-{total:05d}.safetensors": shard for number, shard in enumerate(shards, 1)}


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished writer wrote: digests and sizes by file name, SHA-256 by tensor where asked."""

    files: dict[str, tuple[str, int]]
    tensors: dict[str, str]


class CheckpointWriter:
    """Write the given tensors, in file order, into `directory`.

    Call `write` with consecutive blocks of bytes; the writer knows where each tensor ends. `close` checks that nothing
    is missing, writes the index if there are shards, and returns the digests.
    """

    def __init__(
        self,
        directory: Path,
        tensors: Iterable[TensorInfo],
        *,
        max_shard_bytes: int = DEFAULT_SHARD_BYTES,
        stem: str = "model",
        digest_tensors: bool = False,
    ) -> None:
        self._directory = directory
        self._shards = plan_shards(tensors, max_shard_bytes, stem)
        self._stem = stem
        self._queue = [(shard, info) for shard, infos in self._shards.items() for info in infos]
        self._position = 0
        self._left = self._queue[0][1].nbytes if self._queue else 0
        self._file: IO[bytes] | None = None
        self._file_hash = hashlib.sha256()
        self._file_bytes = 0
        self._tensor_hash = hashlib.sha256()
        self._digest_tensors = digest_tensors
        self._files: dict[str, tuple[str, int]] = {}
        self._tensors: dict[str, str] = {}
        if not self._queue:
            self._start_file(next(iter(self._shards)))

    @property
    def order(self) -> list[TensorInfo]:
        """The tensors in the order in which `write` expects them."""
        return [info for _, info in self._queue]

    def write(self, block: bytes | memoryview) -> None:
        """Append bytes of the current tensor; a block may not cross into the next one."""
        while self._left == 0:
            self._finish_tensor()
        shard, info = self._queue[self._position]
        if self._file is None:
            self._start_file(shard)
        if len(block) > self._left:
            raise ValueError(f"{len(block)} bytes for {info.name}, which has {self._left} left")
        self._emit(block)
        if self._digest_tensors:
            self._tensor_hash.update(block)
        self._left -= len(block)
        if self._left == 0:
            self._finish_tensor()

    def close(self) -> Written:
        """Finish the last file and the index; raises ValueError if bytes are missing."""
        while self._position < len(self._queue) and self._left == 0:
            self._finish_tensor()
        if self._position < len(self._queue):
            raise ValueError(f"tensor {self._queue[self._position][1].name} is incomplete")
        if self._file is not None:
            self._finish_file(next(reversed(self._shards)))
        if len(self._shards) > 1:
            self._write_index()
        return Written(self._files, self._tensors)

    def abort(self) -> None:
        """Close the open file without finishing it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _start_file(self, shard: str) -> None:
        path = self._directory / shard
        self._file = path.open("xb", buffering=0)
        os.fchmod(self._file.fileno(), 0o644)
        self._file_hash, self._file_bytes = hashlib.sha256(), 0
        self._emit(encode_header(self._shards[shard], METADATA))

    def _emit(self, block: bytes | memoryview) -> None:
        assert self._file is not None
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]
        self._file_hash.update(block)
        self._file_bytes += len(block)

    def _finish_tensor(self) -> None:
        shard, info = self._queue[self._position]
        if self._file is None:
            self._start_file(shard)
        if self._digest_tensors:
            self._tensors[info.name] = self._tensor_hash.hexdigest()
            self._tensor_hash = hashlib.sha256()
        self._position += 1
        if self._position == len(self._queue):
            self._left = -1
            self._finish_file(shard)
            return
        self._left = self._queue[self._position][1].nbytes
        if self._queue[self._position][0] != shard:
            self._finish_file(shard)

    def _finish_file(self, shard: str) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None
        self._files[shard] = (self._file_hash.hexdigest(), self._file_bytes)

    def _write_index(self) -> None:
        total = sum(info.nbytes for _, info in self._queue)
        elements = sum(info.elements for _, info in self._queue)
        index = {
            "metadata": {"total_parameters": elements, "total_size": total},
            "weight_map": dict(sorted((info.name, shard) for shard, info in self._queue)),
        }
        name = INDEX_FILE if self._stem == "model" else f"{self._stem}.safetensors.index.json"
        self._files[name] = write_new(self._directory / name, (json.dumps(index, indent=2) + "\n").encode())


def write_new(path: Path, data: bytes, mode: int = 0o644) -> tuple[str, int]:
    """Write a new small file with exactly this mode, whatever the umask; return its SHA-256 and size."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
    return hashlib.sha256(data).hexdigest(), len(data)


def with_dtype(tensors: Iterable[TensorInfo], dtype: str | None) -> list[TensorInfo]:
    """The same tensors with the floating-point ones stored in another dtype (None: each keeps its own)."""
    return [replace(info, dtype=dtype) if dtype and info.dtype in FLOAT_DTYPES else info for info in tensors]
