"""Format a date for a chat template as strftime does, but alike on every machine."""

from __future__ import annotations

import re
from datetime import date

from jinja2 import TemplateError

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def format_day(day: date, format: str) -> str:
    """Format `day`, 00:00:00, as strftime does in the C locale, on every platform.

    Raises:
        TemplateError: a directive is unknown, or depends on the machine (its time zone, its C
            library).
    """
    monday = day.isocalendar()
    pads = {"": None, "0": "0", "_": " ", "-": ""}
    numbers = {
        "d": (day.day, 2, "0"),
        "e": (day.day, 2, " "),
        "m": (day.month, 2, "0"),
        "y": (day.year % 100, 2, "0"),
        "Y": (day.year, 4, "0"),
        "H": (0, 2, "0"),
        "k": (0, 2, " "),
        "I": (12, 2, "0"),
        "l": (12, 2, " "),
        "M": (0, 2, "0"),
        "S": (0, 2, "0"),
        "f": (0, 6, "0"),
        "j": (day.timetuple().tm_yday, 3, "0"),
        "u": (monday.weekday, 1, "0"),
        "w": (monday.weekday % 7, 1, "0"),
        "V": (monday.week, 2, "0"),
        "G": (monday.year, 4, "0"),
        "C": (day.year // 100, 2, "0"),
    }
    texts = {
        "a": _DAYS[day.weekday()][:3],
        "A": _DAYS[day.weekday()],
        "b": _MONTHS[day.month - 1][:3],
        "h": _MONTHS[day.month - 1][:3],
        "B": _MONTHS[day.month - 1],
        "p": "AM",
        "z": "",
        "Z": "",
        "%": "%",
        "n": "\n",
        "t": "\t",
    }
    whole = {
        "D": "%m/%d/%y",
        "x": "%m/%d/%y",
        "F": "%Y-%m-%d",
        "T": "%H:%M:%S",
        "X": "%H:%M:%S",
        "R": "%H:%M",
        "r": "%I:%M:%S %p",
        "c": "%a %b %e %H:%M:%S %Y",
    }

    def replaced(match: re.Match[str]) -> str:
        flag, letter = match.groups()
        if letter in numbers:
            value, width, usual = numbers[letter]
            pad = pads[flag] if flag else usual
            return str(value) if not pad else str(value).rjust(width, pad)
        if letter in texts and not flag:
            return texts[letter]
        if letter in whole and not flag:
            return format_day(day, whole[letter])
        raise TemplateError(f"the date format {match.group()} has no fixed meaning")

    return re.sub(r"%([-_0]?)(.|$)", replaced, format, flags=re.DOTALL)
