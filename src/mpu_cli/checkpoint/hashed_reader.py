"""Read a model's tensors from first to last entry and hash what was read. This imports torch.

A command that first hashes a model and then reads it again would put bytes that changed in between
under the old digest. With this reader the digest is of the bytes that were used. Another thread
hashes, so the reading thread hardly waits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import torch

from mpu_cli.checkpoint.digest import combine
from mpu_cli.checkpoint.dtypes import Scratch, read_span, to_bytes
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, blocks


class HashedReader:
    """Reads the tensors of one checkpoint, each once, in any order of the tensors."""

    def __init__(self, hashing: ThreadPoolExecutor) -> None:
        self._hashing, self._hashed = hashing, Future[None]()
        self._hashed.set_result(None)
        self._digests: dict[str, hashlib._Hash] = {}
        self._scratch = Scratch()

    def read(self, info: TensorInfo, start: int, stop: int) -> torch.Tensor:
        """Entries start to stop of a flattened tensor, valid until the next call.

        Calls go through a tensor from its first entry to its last.

        Raises:
            BadModelError: see `read_span`.
        """
        self._hashed.result()  # the thread no longer needs the memory
        block = read_span(info, start, stop, self._scratch)
        self._hash(info, to_bytes(block))
        return block

    def blocks(self, info: TensorInfo) -> Iterator[bytes]:
        """All bytes of a tensor, whatever its dtype."""
        for block in blocks(info):
            self._hash(info, block)
            yield block

    def digest(self, model: Checkpoint) -> str:
        """The model digest of what was read: of all tensors of `model`."""
        self._hashed.result()
        empty = hashlib.sha256()
        return combine(
            (info, self._digests.get(name, empty).hexdigest())
            for name, info in model.tensors.items()
        )

    def _hash(self, info: TensorInfo, data: bytes | memoryview) -> None:
        self._hashed.result()
        digest = self._digests.setdefault(info.name, hashlib.sha256())
        self._hashed = self._hashing.submit(digest.update, data)


@contextmanager
def hashed_reader() -> Iterator[HashedReader]:
    """A reader with its thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as hashing:
        yield HashedReader(hashing)
