"""Foreign text on a page and in a CSV file: what it says is shown, and none of it is obeyed.

Names of holders, sets, files and models come from people and from the other party.
"""

from __future__ import annotations

import html

from mpu_cli.foreign_text import visible

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet reads as the beginning of a formula."""


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
