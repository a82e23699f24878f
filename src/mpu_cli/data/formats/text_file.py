"""Decode a file as UTF-8, or as UTF-16 or UTF-32 with a byte-order mark; split it into lines."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from shlex import quote

from mpu_cli.errors import BadDataError

_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF8, "utf-8-sig", "UTF-8"),
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)
_SHOWN = 4096


def decode(data: bytes, path: Path) -> tuple[str, str]:
    """The text without its byte-order mark and with its line ends; the name of its encoding.

    Raises:
        BadDataError: it has another encoding, or is broken.
    """
    coding, name = next(
        ((coding, name) for mark, coding, name in _MARKS if data.startswith(mark)),
        ("utf-8", "UTF-8"),
    )
    try:
        text = data.decode(coding)
    except UnicodeDecodeError as error:
        if name != "UTF-8":
            raise BadDataError(
                f"{path.name}: broken {name} ({error.reason})",
                "save or copy it again, preferably as UTF-8",
            ) from None
        line = data.count(b"\n", 0, error.start) + 1
        convert = (
            f"iconv -f WINDOWS-1252 -t UTF-8 {quote(str(path))} > {quote(f'utf-8-{path.name}')}"
        )
        hint = f"save it as UTF-8 (in Excel: CSV UTF-8), or: {convert}"
        raise BadDataError(f"{path.name}:{line}: not UTF-8", hint) from None
    if name == "UTF-8" and text[:_SHOWN].count("\0") > len(text[:_SHOWN]) // 3:
        hint = (
            f"save it as UTF-8, or: iconv -f UTF-16LE -t UTF-8 {quote(str(path))} >"
            f" {quote(f'utf-8-{path.name}')}"
        )
        raise BadDataError(f"{path.name}: UTF-16 without a byte-order mark", hint)
    return text, name


def lines_of(text: str) -> list[str]:
    """The lines of a text that ends them with LF or CRLF, or with CR if it has no LF.

    `str.splitlines` would also split at U+2028 and the like, which are legal inside a JSON string.
    """
    return re.split(r"\r?\n", text) if "\n" in text else text.split("\r")


def line_at(text: str, place: int, start: int = 0) -> int:
    """The number of the line at a place of the text, counted from 1 at `start`."""
    return text.count("\n" if "\n" in text else "\r", start, place) + 1
