"""The digest of a model's weights, independent of the files that hold them.

The digest is the SHA-256 over one line per tensor, sorted by name: name, dtype, shape, SHA-256 of
the bytes. Resharding, moving, saving again or editing config.json does not change it; one flipped
bit of a weight does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Lock

from mpu_cli.checkpoint.buffers import HASH_BLOCK, read_pieces
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint

HASHERS = 2
"""Files or tensors that are hashed in parallel."""


Progress = Callable[[str, int, int], None]
"""Takes the current step, the bytes done and the bytes in total."""


class ByteCounter:
    """Adds up the bytes that several threads hash, and reports them to a progress callback."""

    def __init__(self, progress: Progress | None, what: str, total: int) -> None:
        self._progress, self._what, self._done, self._total = progress, what, 0, total
        self._lock = Lock()

    def add(self, nbytes: int) -> None:
        """Report `nbytes` more bytes as done."""
        if self._progress is not None:
            with self._lock:
                self._done += nbytes
                self._progress(self._what, self._done, self._total)


UNCOUNTED = ByteCounter(None, "", 0)


def tensor_digest(info: TensorInfo, counter: ByteCounter = UNCOUNTED) -> str:
    """SHA-256 of a tensor's bytes on disk."""
    digest = hashlib.sha256()
    for piece in read_pieces(info.file, info.start, info.nbytes, f"tensor {info.name}"):
        digest.update(piece)
        counter.add(len(piece))
    return digest.hexdigest()


def combine(parts: Iterable[tuple[TensorInfo, str]]) -> str:
    """The model digest from each tensor's own digest (any order)."""
    lines = [
        json.dumps([info.name, info.dtype, list(info.shape), digest]) for info, digest in parts
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def model_digest(checkpoint: Checkpoint, progress: Progress | None = None) -> str:
    """The digest of a whole model directory."""
    infos = list(checkpoint.tensors.values())
    counter = ByteCounter(progress, f"hashing {checkpoint.path.name}", checkpoint.nbytes)
    with ThreadPoolExecutor(HASHERS) as hashing:
        digests = hashing.map(partial(tensor_digest, counter=counter), infos)
        return combine(zip(infos, digests, strict=True))


def loaded_digest(checkpoint: Checkpoint) -> str:
    """SHA-256, in hex, of the model digest and the kept part of config.json.

    Two models with the same value compute the same function.
    """
    config = json.dumps(checkpoint.config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{model_digest(checkpoint)}\n{config}".encode()).hexdigest()


def file_digest(path: Path, counter: ByteCounter = UNCOUNTED) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
            counter.add(read)
    return digest.hexdigest()
