"""JSON Lines (one object a line, blank lines skipped), objects over several lines, or one JSON list of objects or of texts.

Stricter than Python's own reader: NaN and Infinity are not JSON, and a key that occurs twice in one
object does not silently win by coming last.
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
_LINES_HINT = "write one JSON object a line, or one JSON list of objects"
_COMMA_HINT = "put [ and ] around all objects, or take the commas between them away"
_LIST_HINT = "the file starts with '[', so it must be one JSON list of objects"


class _OddJsonError(ValueError):
    """What Python reads without a word, but another program would not, or would read otherwise."""


def looks_like_json(source: str) -> bool:
    """Whether a text begins as JSON rows do.

    With an object's first key, or with a list of objects or texts.
    """
    return _JSON.match(source) is not None


def read_json(source: str, name: str, wanted: Collection[str] = ()) -> Table:
    """Read any of the forms.

    Args:
        source: the file's text.
        name: its name in messages.
        wanted: keys that may be asked for, by which a row is told from what is wrapped around rows.

    Raises:
        BadDataError: a JSON list is broken, or the file holds rows in a wrapper or by columns. A
            broken line is that row's `RowError`.
    """
    # Indented JSON also starts with "[", so the first character decides, not the suffix: .json
    # often holds lines.
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
    """Objects one after the other, the first of which goes on after its line (json.dump with indent, jq); none of anything else."""
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
                "put [ and ] around them all, or take the commas away",
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
    # Item by item, so that what is wrong inside one names its row. MUSE's own files are lists of
    # bare texts.
    rows: list[tuple[str, Any]] = []
    at = _skip(source, source.index("[") + 1)
    closed = source[at : at + 1] == "]"
    while not closed:
        where = f"{name} row {len(rows) + 1}"
        try:
            value, at = _DECODER.raw_decode(source, at)
        except (ValueError, RecursionError) as error:
            line = f"{name}:{line_at(source, error.pos) if isinstance(error, json.JSONDecodeError) else 1}"
            raise RowError(
                where if isinstance(error, _OddJsonError) else line, *_reason(error, _LIST_HINT)
            ).as_error() from None
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


def _refuse_wrapped(value: Any, name: str, wanted: Collection[str]) -> None:
    """A whole data set in one object.

    By columns, as rows under names of their own, or as a list under some key.
    """
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
        hint = f"keep the rows alone, for instance: jq -c '.[]' {quote(name)} > rows.jsonl"
        raise BadDataError(
            f"{name}: one object that holds {len(value)} row(s) under names of their own", hint
        )
    key = next((key for key, rows in value.items() if isinstance(rows, list) and rows), None)
    if key is not None:
        where = f".{key}" if key.isascii() and key.isidentifier() else f".[{json.dumps(key)}]"
        hint = f"keep the list alone, for instance: jq {quote(where)} {quote(name)} > rows.json"
        raise BadDataError(
            f"{name}: one object that holds a list of {len(value[key])} under {key[:40]!r}, not"
            " rows",
            hint,
        )


def _is_column(value: Any) -> bool:
    """Cells by their row's number, as pandas writes them by default, or a list of cells (turns of a chat are objects)."""
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
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _OddJsonError(
            f"the key {twice[:40]!r} occurs twice in one object", "keep one of them"
        )
    return found


def _constant(name: str) -> NoReturn:
    raise _OddJsonError(f"{name} is not JSON", "write null, or leave the key out")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
