"""The last check before the server publishes files: the master secret must not be in them.

All known ways of the secret into these files are closed elsewhere (links, foreign files). This scan
reads all small files, and only the header of a tensor file: mpu computes the tensors itself from
well-formed ones, and reading them again would double the time of a large handoff. So the scan does
not see a master that somebody, who must have known it, hid among the numbers of a tensor.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from mpu_cli.errors import BadModelError

_BLOCK = 1 << 20
_BETWEEN = b"\0 \t\r\n\v\f,:\"'\\"
"""What texts put between the parts of a long number, and UTF-16 between letters."""
_NOT_HEX = bytes(set(range(256)) - set(b"0123456789abcdef"))


def require_no_secret(directory: Path, master: bytes) -> None:
    """Look for `master` in every file below a directory that is not yet renamed into place.

    Raises:
        BadModelError: a file holds it as bytes, hexadecimal (with any separators), base64 or base32
            (either alphabet, any alignment, with white space or quotes), also in UTF-16 or UTF-32.
    """
    views = _views(master)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and any(_holds(path, change, needles) for change, needles in views):
            raise BadModelError(
                f"{path.relative_to(directory)}: holds the master secret of this lineage; nothing"
                " was published",
                "remove that file from the model directory, and find out how the secret got there",
            )


def _views(master: bytes) -> tuple[tuple[Callable[[bytes], bytes], tuple[bytes, ...]], ...]:
    """Each way to read a file's bytes, with the letters of the secret to look for.

    Letters of a text form that depend on bytes beside the secret are left out.
    """
    base64s = [_core(base64.b64encode, master, shift, 6) for shift in range(3)]
    base32s = [
        _core(encode, master, shift, 5).lower()
        for shift in range(5)
        for encode in (base64.b32encode, base64.b32hexencode)
    ]
    return (
        (bytes, (master,)),
        (_packed, (*base64s, *(core.translate(bytes.maketrans(b"+/", b"-_")) for core in base64s))),
        (lambda block: _packed(block).translate(None, b"-_").lower(), tuple(base32s)),
        (lambda block: block.lower().translate(None, _NOT_HEX), _hexadecimal(master.hex())),
    )


def _core(encode: Callable[[bytes], bytes], master: bytes, shift: int, bits: int) -> bytes:
    """The letters of `bits` bits each that lie within the secret after `shift` other bytes."""
    return encode(bytes(shift) + master)[
        -(-8 * shift // bits) : (8 * shift + 8 * len(master)) // bits
    ]


def _hexadecimal(digits: str) -> tuple[bytes, ...]:
    """The digits alone, and with the zeros of 0x12, 0x1234, …, or \\u0012 before every part."""
    forms = [
        (zeros, 2 * size) for zeros, sizes in (("0", (1, 2, 4, 8)), ("00", (1,))) for size in sizes
    ]
    parted = [
        "".join(zeros + digits[start : start + size] for start in range(0, len(digits), size))
        for zeros, size in forms
    ]
    return tuple(form.encode() for form in (digits, *parted))


def _packed(block: bytes) -> bytes:
    return block.replace(b"\\n", b"").replace(b"\\r", b"").translate(None, _BETWEEN)


def _blocks(file: BinaryIO, length: int | None) -> Iterator[bytes]:
    while block := file.read(_BLOCK if length is None else min(_BLOCK, length)):
        length = None if length is None else length - len(block)
        # A block never ends within an escaped line end.
        yield block + file.read(1) if block.endswith(b"\\") else block


def _holds(path: Path, change: Callable[[bytes], bytes], needles: tuple[bytes, ...]) -> bool:
    keep = max(map(len, needles)) - 1
    tail = b""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0] + 8 if path.suffix == ".safetensors" else None
        file.seek(0)
        for block in _blocks(file, length):
            window = tail + change(block)
            if any(needle in window for needle in needles):
                return True
            tail = window[-keep:]
    return False
