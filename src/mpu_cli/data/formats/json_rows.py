"""JSON Lines, objects over several lines, or one JSON list of objects or of texts.

Stricter than Python's own reader: NaN and Infinity are refused, and so is a key that occurs twice
in one object.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from shlex import quote
from typing import Any, NoReturn

from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.data.formats.text_file import line_at, lines_of
from mpu_cli.errors import BadDataError

_SPACE = re.compile(r"[ \t\r\n]*")
_JSON = re.compile(r'\s*(?:\{\s*"|\[\s*[{"])')
_LINES_HINT = "write one JSON object on each line, or one JSON list of objects"
_COMMA_HINT = "put [ and ] around all objects, or remove the commas between them"
_LIST_HINT = "the file starts with '[', so it must be one JSON list of objects"


class _OddJsonError(ValueError):
    """Python reads it, but another program would refuse it or read something else."""


def looks_like_json(source: str) -> bool:
    """Whether a text begins with an object's key, or with a list of objects or texts."""
    return _JSON.match(source) is not None


def read_json(source: str, name: str, wanted: Collection[str] = ()) -> Table:
    """Read rows in any of these layouts.

    Args:
        source: the file's text.
        name: its name in messages.
        wanted: the keys that may be used, which distinguish a row from an object that holds rows.

    Raises:
        BadDataError: a JSON list is broken, or the file holds rows inside an object or by columns.
            A broken line is a `RowError` in the table.
    """
    # The first character decides, not the suffix: .json files often hold lines.
    if source.lstrip().startswith("["):
        return Table(_parse_list(source, name))
    spread = _parse_spread(source, name)
    rows = spread or _parse_lines(source, name)
    if len(rows) == 1:
        _refuse_wrapped(rows[0][1], name, wanted)
    return Table(rows, notes=("objects over several lines",) if spread else ())


def _parse_lines(source: str, name: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for number, line in enumerate(lines_of(source), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            rows.append((where, _DECODER.decode(line)))
        except (ValueError, RecursionError) as error:
            hint = _COMMA_HINT if line.rstrip().endswith("},") else _LINES_HINT
            rows.append((where, RowError(where, *_reason(error, hint))))
    return rows


def _parse_spread(source: str, name: str) -> list[tuple[str, Any]]:
    """Objects in sequence, if the first one spans several lines (json.dump with indent, jq)."""
    at, rows = _skip(source, 0), []
    opening, _, rest = source[at:].replace("\r", "\n").partition("\n")
    if (
        not opening.startswith("{")
        or opening.rstrip()[-1:] not in {"{", "[", ","}
        or _is_object(rest.lstrip().partition("\n")[0])
    ):
        return []
    line = line_at(source, at)
    while at < len(source):
        where, begun = f"{name}:{line}", at
        if source[at] == ",":
            raise BadDataError(
                f"{where}: a comma between objects",
                "put [ and ] around all objects, or remove the commas",
            )
        try:
            value, at = _DECODER.raw_decode(source, at)
        except (ValueError, RecursionError) as error:
            place = (
                where
                if not isinstance(error, json.JSONDecodeError)
                else f"{name}:{line_at(source, error.pos)}"
            )
            raise RowError(place, *_reason(error, _LINES_HINT)).as_error() from None
        rows.append((where, value))
        at = _skip(source, at)
        line += line_at(source, at, begun) - 1
    return rows


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _parse_list(source: str, name: str) -> list[tuple[str, Any]]:
    # Item by item, so that an error names its row. MUSE's own files are lists of bare texts.
    rows: list[tuple[str, Any]] = []
    at = _skip(source, source.index("[") + 1)
    closed = source[at : at + 1] == "]"
    while not closed:
        where = f"{name} row {len(rows) + 1}"
        try:
            value, at = _DECODER.raw_decode(source, at)
        except (ValueError, RecursionError) as error:
            line = line_at(source, error.pos) if isinstance(error, json.JSONDecodeError) else 1
            place = where if isinstance(error, _OddJsonError) else f"{name}:{line}"
            raise RowError(place, *_reason(error, _LIST_HINT)).as_error() from None
        rows.append((where, {"text": value} if isinstance(value, str) else value))
        at = _skip(source, at)
        closed = source[at : at + 1] == "]"
        if not closed and source[at : at + 1] != ",":
            raise _broken(name, source, at, "expecting ',' or ']'")
        at = at if closed else _skip(source, at + 1)
    end = _skip(source, at + 1)
    if end != len(source):
        raise _broken(name, source, end, "text after the end of the list")
    return rows


def _refuse_wrapped(value: Any, name: str, wanted: Collection[str]) -> None:
    """Refuse a data set in one object: by columns, by names of rows, or as a list under a key."""
    if not isinstance(value, dict) or not value:
        return
    cells = [value[key] for key in value if key in wanted]
    if cells and "messages" not in value and all(map(_is_column, cells)):
        columns = ", ".join(repr(key[:40]) for key in list(value)[:4])
        raise BadDataError(
            f"{name}: holds columns ({columns}), not rows",
            "from pandas: to_json(FILE, orient='records', lines=True)",
        )
    if cells:
        return
    if all(isinstance(row, dict) and not set(wanted).isdisjoint(row) for row in value.values()):
        hint = f"extract the rows, for instance: jq -c '.[]' {quote(name)} > rows.jsonl"
        raise BadDataError(f"{name}: one object that holds {len(value)} row(s) by name", hint)
    key = next((key for key, rows in value.items() if isinstance(rows, list) and rows), None)
    if key is not None:
        where = f".{key}" if key.isascii() and key.isidentifier() else f".[{json.dumps(key)}]"
        hint = f"extract the list, for instance: jq {quote(where)} {quote(name)} > rows.json"
        raise BadDataError(
            f"{name}: one object that holds a list of {len(value[key])} under {key[:40]!r}, not"
            " rows",
            hint,
        )


def _is_column(value: Any) -> bool:
    """Cells by row number, as pandas writes them by default, or a list of cells (not of turns)."""
    if isinstance(value, dict):
        return bool(value) and all(map(str.isdigit, value))
    return (
        isinstance(value, list)
        and bool(value)
        and not any(isinstance(cell, dict) for cell in value)
    )


def _skip(source: str, at: int) -> int:
    match = _SPACE.match(source, at)
    return match.end() if match else at


def _broken(name: str, source: str, at: int, reason: str) -> BadDataError:
    return BadDataError(f"{name}:{line_at(source, at)}: broken JSON ({reason})", _LIST_HINT)


def _reason(error: Exception, hint: str) -> tuple[str, str]:
    if isinstance(error, _OddJsonError):
        return error.args[0], error.args[1]
    reason = (
        error.msg
        if isinstance(error, json.JSONDecodeError)
        else "nested too deeply, or a number too long"
    )
    return f"broken JSON ({reason})", hint


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _OddJsonError(
            f"the key {twice[:40]!r} occurs twice in one object", "keep one of them"
        )
    return unique


def _constant(name: str) -> NoReturn:
    raise _OddJsonError(f"{name} is not JSON", "write null, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
