"""Find NaN and infinity, in the pass that computes a digest where possible. Never imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isfinite
from pathlib import Path

from mpu_cli.checkpoint.buffers import read_pieces
from mpu_cli.checkpoint.digest import (
    HASHERS,
    UNCOUNTED,
    ByteCounter,
    Progress,
    combine,
    file_digest,
)
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadModelError

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
    "F8_E5M2": ("<u1", 0x7C),
    "F8_E4M3": ("<u1", 0x7F),
}
"""The bits that are all set in NaN and infinity, for every floating-point dtype of a header."""


def all_finite(dtype: str, block: memoryview) -> bool:
    """Whether a block of whole entries holds neither NaN nor infinity; true for integer dtypes."""
    if dtype not in _EXPONENTS:
        return True
    import numpy as np

    if dtype == "F32":
        # A cheap first pass: if the sum is finite, every entry is.
        with np.errstate(all="ignore"):
            if isfinite(float(np.frombuffer(block, dtype="<f4").sum())):
                return True
    word, mask = _EXPONENTS[dtype]
    return not bool(((np.frombuffer(block, dtype=word) & mask) == mask).any())


def not_finite(tensors: Mapping[str, TensorInfo]) -> str | None:
    """The first floating-point tensor that holds a NaN or an infinity, or None."""
    for name, info in sorted(tensors.items()):
        if info.dtype in _EXPONENTS:
            for piece in read_pieces(info.file, info.start, info.nbytes, f"tensor {name}"):
                if not all_finite(info.dtype, piece):
                    return name
    return None


def examine(checkpoint: Checkpoint, progress: Progress | None = None) -> tuple[str, str | None]:
    """A model's digest, and the first tensor that holds NaN or infinity, in one pass."""
    infos = [info for _, info in sorted(checkpoint.tensors.items())]
    counter = ByteCounter(progress, f"checking {checkpoint.path.name}", checkpoint.nbytes)
    with ThreadPoolExecutor(HASHERS) as hashing:
        results = list(hashing.map(partial(examine_tensor, counter=counter), infos))
    bad = next(
        (info.name for info, (_, finite) in zip(infos, results, strict=True) if not finite), None
    )
    return combine((info, digest) for info, (digest, _) in zip(infos, results, strict=True)), bad


def examine_tensor(info: TensorInfo, counter: ByteCounter = UNCOUNTED) -> tuple[str, bool]:
    """A tensor's digest, and whether every entry is finite, in one pass."""
    digest = hashlib.sha256()
    finite = _feed(info, digest, counter)
    return digest.hexdigest(), finite


def _feed(info: TensorInfo, digest: hashlib._Hash, counter: ByteCounter) -> bool:
    """Hash a tensor's bytes and return whether every entry is finite."""
    finite = True
    for piece in read_pieces(info.file, info.start, info.nbytes, f"tensor {info.name}"):
        digest.update(piece)
        counter.add(len(piece))
        finite = finite and all_finite(info.dtype, piece)
    return finite


class FileNumbers:
    """Computes the digests of files for `read_bundle`, and notes tensors with NaN or infinity.

    It reads a file's header before the digest is verified, so it raises no error for the header;
    ask for the notes after the whole bundle is verified.
    """

    def __init__(self) -> None:
        self._not_finite: dict[Path, str] = {}

    def digest(self, path: Path, counter: ByteCounter = UNCOUNTED) -> str:
        """SHA-256 of a file's bytes."""
        if path.suffix != ".safetensors":
            return file_digest(path, counter)
        try:
            tensors = sorted(read_header(path)[0].values(), key=lambda info: info.start)
        except BadModelError:
            return file_digest(path, counter)  # the caller gets the error when it opens the file
        digest = hashlib.sha256()
        # A valid header leaves no gap between the tensors, so this hashes every byte of the file.
        first = min((info.start for info in tensors), default=path.stat().st_size)
        for piece in read_pieces(path, 0, first, "its header"):
            digest.update(piece)
            counter.add(len(piece))
        for info in tensors:
            if not _feed(info, digest, counter):
                self._not_finite[path] = min(info.name, self._not_finite.get(path, info.name))
        return digest.hexdigest()

    def not_finite(self, files: Iterable[Path]) -> str | None:
        """The first tensor (by name) of these files that holds a NaN or an infinity, or None."""
        return min(filter(None, map(self._not_finite.get, files)), default=None)
