"""Text that someone else wrote, as it may stand on a terminal, in a log or on a page.

A name in a file of the other party can hold codes that clear the screen, turn the direction of
the text around it, or fill the terminal. Whatever is printed passes one of these functions.
"""

from __future__ import annotations

import unicodedata

NAME, LINE = 200, 2000
"""The most characters of one word, and of one line of a message; the middle of more is left out."""
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, marks of direction and zero-width letters, halves of
characters, and separators of lines."""
_BLANK = frozenset(map(chr, (0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0)))
"""Letters that have no shape."""


def visible(text: str, *, lines: bool = True) -> str:
    """Replace what cannot be seen, or changes how the rest is seen, by its code: \\x1b, \\u202e.

    Args:
        text: of any length.
        lines: keep line feeds.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        letter if (letter == "\n" and lines) or not _is_unseen(letter) else _code(letter)
        for letter in text
    )


def shown(text: str, most: int = NAME) -> str:
    """A foreign name or value on one line, of about `most` characters."""
    return _cut(visible(_cut(text, most), lines=False), most)


def one_line(text: str) -> str:
    """A message on one line: each long word, and then the whole, loses its middle."""
    if len(text) <= NAME:
        return visible(text, lines=False)
    # Cut before the words are looked at: the message may be megabytes.
    words = _cut(text, 2 * LINE).split(" ")
    return _cut(" ".join(map(shown, words)), LINE)


def cell(text: str) -> str:
    """The text of a table's cell, which may have lines of our own."""
    return "\n".join(map(one_line, text.split("\n", LINE)[:LINE]))


def _is_unseen(letter: str) -> bool:
    return unicodedata.category(letter) in _UNSEEN or letter in _BLANK


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _code(letter: str) -> str:
    """A character as its code: \\n, \\x1b, \\u202e, \\U000e0041."""
    number = ord(letter)
    if letter in "\n\t\r":
        return repr(letter)[1:-1]
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
