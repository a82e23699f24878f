"""A model's digest: what the weights are, whatever files they lie in.

The digest is the SHA-256 over one line per tensor, sorted by name: name, dtype, shape, SHA-256 of the bytes. Re-sharding,
moving, re-saving or another config.json does not change it; one flipped bit of a weight does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import READ_BLOCK, Checkpoint, blocks


def tensor_digest(info: TensorInfo) -> str:
    """SHA-256 of a tensor's bytes on disk."""
    digest = hashlib.sha256()
    for block in blocks(info):
        digest.update(block)
    return digest.hexdigest()


def combine(parts: Iterable[tuple[TensorInfo, str]]) -> str:
    """The model digest from each tensor's own digest (any order)."""
    lines = [json.dumps([info.name, info.dtype, list(info.shape), digest]) for info, digest in parts]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def model_digest(checkpoint: Checkpoint) -> str:
    """The digest of a whole model directory."""
    return combine((info, tensor_digest(info)) for info in checkpoint.tensors.values())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(READ_BLOCK):
            digest.update(block)
    return digest.hexdigest()
