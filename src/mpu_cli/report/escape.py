"""Foreign text on a page and in a CSV file: what it says is shown, and none of it is obeyed.

Names of holders, sets, files and models come from people and from the other party.
"""

from __future__ import annotations

import html
import re

# Control characters (C0 without line feed, DEL, C1), the two separators of lines, marks that turn
# the direction of text, invisible letters, and halves of characters that UTF-8 cannot hold.
_UNSEEN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    r"\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet reads as the beginning of a formula."""


def visible(text: str) -> str:
    """Replace what cannot be seen, or changes how the rest is seen, by its code: \\x1b, \\u202e."""
    return _UNSEEN.sub(lambda found: _code(ord(found[0])), text)


def escape(text: object) -> str:
    """Text as it stands in an element or an attribute of a page."""
    return html.escape(visible(str(text)), quote=True)


def csv_text(text: str) -> str:
    """A cell of text that no spreadsheet takes for a formula."""
    shown = visible(text)
    return f"'{shown}" if shown.startswith(_FORMULA) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _code(number: int) -> str:
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
