"""Parse JSON that someone else wrote, in bounded time and memory.

A byte of JSON can become 25 bytes of objects (`{},{},…`), so not only the size of a file counts but
also the number of values in it, which is counted before they are made.
"""

from __future__ import annotations

import json
import re
from typing import Any

from mpu_cli.foreign_text import shown

MOST_VALUES = 1_000_000
"""About 200 MB in memory at worst. An index of 300,000 tensors has 300,000 values."""
MOST_DEPTH = 64
_TOO_DEEP = f"lists or maps are nested more than {MOST_DEPTH} levels deep"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class BadJsonError(ValueError):
    """The text is not JSON that mpu reads; the message is the end of a sentence about the file."""


def count_values(data: bytes) -> int:
    """At least the number of values in a JSON text; commas and brackets in strings count too."""
    return data.count(b",") + data.count(b"[") + data.count(b"{") + 1


def parse_json(data: bytes, most: int = MOST_VALUES, *, unique: bool = False) -> Any:
    """Parse a JSON text.

    Args:
        data: UTF-8.
        most: the number of values that it may have.
        unique: refuse a map that has a key twice.

    Raises:
        BadJsonError: too many values, too deep, or not JSON; half a character, which UTF-8 cannot
            encode; an integer of thousands of digits.
    """
    if count_values(data) > most:
        raise BadJsonError(f"more than {most:,} values, the limit")
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
    except BadJsonError:
        raise
    except ValueError as error:
        raise BadJsonError(f"not valid JSON ({shown(str(error))})") from error
    except RecursionError as error:
        raise BadJsonError(_TOO_DEEP) from error
    if _is_deeper(value, MOST_DEPTH):
        raise BadJsonError(_TOO_DEEP)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadJsonError("not valid JSON (a name occurs twice)")
    return result


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
