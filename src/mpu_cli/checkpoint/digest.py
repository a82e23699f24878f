"""A model's digest: what the weights are, whatever files they lie in.

The digest is the SHA-256 over one line per tensor, sorted by name: name, dtype, shape, SHA-256 of
the bytes. Re-sharding, moving, re-saving or another config.json does not change it; one flipped bit
of a weight does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpu_cli.checkpoint.buffers import HASH_BLOCK, read_pieces
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint

HASHERS = 2
"""Files or tensors that are hashed at once."""


def tensor_digest(info: TensorInfo) -> str:
    """SHA-256 of a tensor's bytes on disk."""
    digest = hashlib.sha256()
    for piece in read_pieces(info.file, info.start, info.nbytes, f"tensor {info.name}"):
        digest.update(piece)
    return digest.hexdigest()


def combine(parts: Iterable[tuple[TensorInfo, str]]) -> str:
    """The model digest from each tensor's own digest (any order)."""
    lines = [
        json.dumps([info.name, info.dtype, list(info.shape), digest]) for info, digest in parts
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def model_digest(
    checkpoint: Checkpoint, progress: Callable[[str, int, int], None] | None = None
) -> str:
    """The digest of a whole model directory.

    `progress` is told (what, bytes done, bytes in all).
    """
    infos = list(checkpoint.tensors.values())
    done, total = 0, sum(info.nbytes for info in infos)
    digests = []
    with ThreadPoolExecutor(HASHERS) as hashing:
        for info, digest in zip(infos, hashing.map(tensor_digest, infos), strict=True):
            digests.append((info, digest))
            done += info.nbytes
            if progress is not None:
                progress("hashing", done, total)
    return combine(digests)


def loaded_digest(checkpoint: Checkpoint) -> str:
    """SHA-256, in hex, of the model digest and of what is kept of config.json.

    Two models with the same one compute the same.
    """
    config = json.dumps(checkpoint.config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{model_digest(checkpoint)}\n{config}".encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(HASH_BLOCK))
    with path.open("rb", buffering=0) as file:
        while read := file.readinto(buffer):
            digest.update(buffer[:read])
    return digest.hexdigest()
