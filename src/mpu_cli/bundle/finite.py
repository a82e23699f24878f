"""Is every entry a number? Seen in the pass that computes the digest, where there is one.

Never imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from math import isfinite
from pathlib import Path

import numpy as np

from mpu_cli.checkpoint.buffers import read_pieces
from mpu_cli.checkpoint.digest import HASHERS, combine, file_digest
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
"""The bits that are all set in what is no number, for every floating-point dtype that a header may name."""


def all_finite(dtype: str, block: memoryview) -> bool:
    """Whether a block of whole entries holds neither NaN nor infinity (true of what is not a floating-point number)."""
    if dtype not in _EXPONENTS:
        return True
    if dtype == "F32":
        # One cheap pass: only if the sum is not a number can an entry be none.
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


def examine(checkpoint: Checkpoint) -> tuple[str, str | None]:
    """A model's digest, and the first tensor that holds a NaN or an infinity, in one pass."""
    infos = [info for _, info in sorted(checkpoint.tensors.items())]
    with ThreadPoolExecutor(HASHERS) as hashing:
        found = list(hashing.map(examine_tensor, infos))
    bad = next(
        (info.name for info, (_, finite) in zip(infos, found, strict=True) if not finite), None
    )
    return combine((info, digest) for info, (digest, _) in zip(infos, found, strict=True)), bad


def examine_tensor(info: TensorInfo) -> tuple[str, bool]:
    """A tensor's digest, and whether every entry is a number, in one pass."""
    digest = hashlib.sha256()
    finite = _feed(info, digest)
    return digest.hexdigest(), finite


def _feed(info: TensorInfo, digest: hashlib._Hash) -> bool:
    """Hash a tensor's bytes; whether every entry is a number."""
    finite = True
    for piece in read_pieces(info.file, info.start, info.nbytes, f"tensor {info.name}"):
        digest.update(piece)
        finite = finite and all_finite(info.dtype, piece)
    return finite


class FileNumbers:
    """Digests of files for `read_bundle`, and which of their tensors hold a NaN or an infinity.

    A file's header is read before its digest is known to be right, so nothing is said of it here:
    what was seen may be asked for once the whole bundle has been verified.
    """

    def __init__(self) -> None:
        self._found: dict[Path, str] = {}

    def digest(self, path: Path) -> str:
        """SHA-256 of a file's bytes."""
        if path.suffix != ".safetensors":
            return file_digest(path)
        try:
            tensors = sorted(read_header(path)[0].values(), key=lambda info: info.start)
        except BadModelError:
            return file_digest(path)  # whoever opens it says what is wrong
        digest = hashlib.sha256()
        # The header, then the tensors, which lie without gaps (the header was refused otherwise).
        size = path.stat().st_size
        for piece in read_pieces(
            path, 0, min((info.start for info in tensors), default=size), "its header"
        ):
            digest.update(piece)
        for info in tensors:
            if not _feed(info, digest):
                self._found[path] = min(info.name, self._found.get(path, info.name))
        return digest.hexdigest()

    def not_finite(self, files: Iterable[Path]) -> str | None:
        """The first tensor (by name) of these files that holds a NaN or an infinity, or None."""
        return min((self._found[path] for path in files if path in self._found), default=None)
