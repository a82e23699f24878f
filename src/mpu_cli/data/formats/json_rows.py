"""JSON Lines (one object a line, blank lines skipped), or one JSON list of objects or of texts.

Stricter than Python's own reader: NaN and Infinity are not JSON, and a key that occurs twice in one object does not
silently win by coming last.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.errors import BadDataError

_SPACE = re.compile(r"[ \t\r\n]*")
_LINES_HINT = "write one JSON object a line, or one JSON list of objects"
_LIST_HINT = "the file starts with '[', so it must be one JSON list of objects"


class _OddJsonError(ValueError):
    """What Python reads without a word, but another program would not, or would read otherwise."""


def read_json(source: str, name: str) -> Table:
    """Read either form; `name` is the file's name in messages.

    Raises:
        BadDataError: a JSON list is broken. A broken line is that row's `RowError`.
    """
    # Indented JSON also starts with "[", so the first character decides, not the suffix: .json often holds lines.
    return Table(_parse_list(source, name) if source.lstrip().startswith("[") else _parse_lines(source, name))


def _parse_lines(source: str, name: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    # str.splitlines would also split at U+2028 and the like, which are legal inside a JSON string.
    for number, line in enumerate(source.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            rows.append((where, _DECODER.decode(line)))
        except (ValueError, RecursionError) as error:
            rows.append((where, RowError(where, *_reason(error, _LINES_HINT))))
    return rows


def _parse_list(source: str, name: str) -> list[tuple[str, Any]]:
    # Item by item, so that what is wrong inside one names its row. MUSE's own files are lists of bare texts.
    rows: list[tuple[str, Any]] = []
    at = _skip(source, source.index("[") + 1)
    closed = source[at : at + 1] == "]"
    while not closed:
        where = f"{name} row {len(rows) + 1}"
        try:
            value, at = _DECODER.raw_decode(source, at)
        except (ValueError, RecursionError) as error:
            line = f"{name}:{getattr(error, 'lineno', 1)}"
            raise RowError(where if isinstance(error, _OddJsonError) else line, *_reason(error, _LIST_HINT)).as_error() from None
        rows.append((where, {"text": value} if isinstance(value, str) else value))
        at = _skip(source, at)
        closed = source[at : at + 1] == "]"
        if not closed and source[at : at + 1] != ",":
            raise _broken(name, source, at, "expecting ',' or ']'")
        at = at if closed else _skip(source, at + 1)
    end = _skip(source, at + 1)
    if end != len(source):
        raise _broken(name, source, end, "more after the list's end")
    return rows


def _skip(source: str, at: int) -> int:
    match = _SPACE.match(source, at)
    return match.end() if match else at


def _broken(name: str, source: str, at: int, reason: str) -> BadDataError:
    return BadDataError(f"{name}:{source.count(chr(10), 0, at) + 1}: broken JSON ({reason})", _LIST_HINT)


def _reason(error: Exception, hint: str) -> tuple[str, str]:
    if isinstance(error, _OddJsonError):
        return error.args[0], error.args[1]
    reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number too long"
    return f"broken JSON ({reason})", hint


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _OddJsonError(f"the key {twice[:40]!r} occurs twice in one object", "keep one of them")
    return found


def _constant(name: str) -> NoReturn:
    raise _OddJsonError(f"{name} is not JSON", "write null, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
