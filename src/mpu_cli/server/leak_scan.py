"""The last look at what the server is about to give out: its master secret must not be in it.

Every way in which the secret is known to get there is closed before (links, foreign files); this is the net below. It
reads all small files, and of a tensor file the header only: the tensors are computed by us from a model whose reader
accepts nothing but well-formed tensors, and reading them again would double the time of a large handoff. So a master
that somebody planted among the numbers of a tensor, who must have known it, is not found.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from mpu_cli.errors import BadModelError

_BLOCK = 1 << 20
_BETWEEN = b" \t\r\n\v\f,:\"'\\"
"""What texts put between the parts of a long number: wrapped base64, spaced hexadecimal."""


def require_no_secret(directory: Path, master: bytes) -> None:
    """Look for `master` in every file below a directory that is still to be renamed into place.

    Raises:
        BadModelError: a file holds it as bytes, hexadecimal or base64 (either alphabet, any alignment, with white space or
            quotes between).
    """
    needles = _spellings(master)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and any(_holds(blocks, needles) for blocks in _views(path)):
            raise BadModelError(
                f"{path.relative_to(directory)}: holds the master secret of this lineage; nothing was published",
                "remove that file from the model directory, and ask how the secret came into it",
            )


def _spellings(master: bytes) -> tuple[bytes, ...]:
    """The secret as bytes, and the letters of every text form that only the secret decides; hexadecimal in lower case."""
    found = [master, master.hex().encode()]
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + master)
        core = encoded[-(-8 * shift // 6) : (8 * shift + 8 * len(master)) // 6]
        found += [core, core.translate(bytes.maketrans(b"+/", b"-_"))]
    return tuple(found)


def _views(path: Path) -> Iterator[Iterator[bytes]]:
    """A file's bytes in three ways: as they are, with what stands between removed, and that in lower case."""
    for change in (bytes, _packed, lambda block: _packed(block).lower()):
        with path.open("rb") as file:
            length = struct.unpack("<Q", file.read(8))[0] + 8 if path.suffix == ".safetensors" else None
            file.seek(0)
            yield (change(block) for block in _blocks(file, length))


def _packed(block: bytes) -> bytes:
    return block.translate(None, _BETWEEN)


def _blocks(file: BinaryIO, length: int | None) -> Iterator[bytes]:
    while block := file.read(_BLOCK if length is None else min(_BLOCK, length)):
        length = None if length is None else length - len(block)
        yield block


def _holds(blocks: Iterator[bytes], needles: tuple[bytes, ...]) -> bool:
    keep = max(map(len, needles)) - 1
    tail = b""
    for block in blocks:
        window = tail + block
        if any(needle in window for needle in needles):
            return True
        tail = window[-keep:]
    return False
