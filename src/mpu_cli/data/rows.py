"""Rows of a forget, retain or holdout file: read, recognised and checked before any model is loaded.

A file is UTF-8 and holds JSON Lines (one object a line, blank lines skipped) or one JSON list of objects. Four forms
of a row are recognised by their keys; other keys are tolerated, so TOFU's files work as they are:

    {"question": …, "answer": …}          TOFU (Maini et al. 2401.06121)
    {"prompt": …, "completion": …}
    {"messages": [{"role": …, "content": …}, …]}    a chat whose last turn is the assistant's
    {"text": …}                           plain text, every token of it counts
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.errors import BadDataError

_FORMS = {
    "question/answer": ("question", "answer"),
    "prompt/completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
_HINT = "a row has question and answer, or prompt and completion, or messages, or text"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """One example: a prompt/answer pair, a chat, or plain text. Exactly one of the three is set.

    `where` names its place for error messages ("forget.jsonl:3", or "forget.json row 3" for a JSON list).
    """

    where: str
    prompt: str | None = None
    answer: str | None = None
    messages: tuple[Message, ...] = ()
    text: str | None = None


def read_rows(path: Path) -> list[Row]:
    """Read all rows of a JSON Lines or JSON file, in the file's order.

    Raises:
        BadDataError: the file is missing, a directory, unreadable, not UTF-8 or empty; a row is broken, of no form or
            of two forms, or its answer is missing, empty or not text. One line that names the file and the line or row.
    """
    source = _read_text(path)
    # Indented JSON also starts with "[", so the first character decides, not the suffix: .json often holds lines.
    objects = _parse_list(source, path.name) if source.lstrip().startswith("[") else _parse_lines(source, path.name)
    if not objects:
        raise BadDataError(f"{path.name} has no rows", _HINT)
    return [_recognise(value, where) for where, value in objects]


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise BadDataError(f"{path}: no such file", "check the path; data files are .jsonl or .json") from None
    except IsADirectoryError:
        raise BadDataError(f"{path} is a directory, expected a file", "name the .jsonl or .json file in it") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise BadDataError(f"{path.name}:{line}: not UTF-8", "save the file as UTF-8") from None
    except OSError as error:
        raise BadDataError(f"{path}: cannot be read ({error.strerror})", "check the file's permissions") from None


def _parse_lines(source: str, name: str) -> list[tuple[str, Any]]:
    objects = []
    # str.splitlines would also split at U+2028 and the like, which are legal inside a JSON string.
    for number, line in enumerate(source.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            objects.append((where, json.loads(line)))
        except (ValueError, RecursionError) as error:
            hint = "write one JSON object a line, or one JSON list of objects"
            raise BadDataError(f"{where}: broken JSON ({_reason(error)})", hint) from None
    return objects


def _parse_list(source: str, name: str) -> list[tuple[str, Any]]:
    try:
        values = json.loads(source)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        hint = "the file starts with '[', so it must be one JSON list of objects"
        raise BadDataError(f"{name}:{line}: broken JSON ({_reason(error)})", hint) from None
    return [(f"{name} row {number}", value) for number, value in enumerate(values, start=1)]


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number too long"


def _recognise(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise BadDataError(f"{where}: a row must be a JSON object, found {_kind(value)}", _HINT)
    complete = [form for form, keys in _FORMS.items() if all(key in value for key in keys)]
    if len(complete) > 1:
        raise BadDataError(
            f"{where}: ambiguous row, it is both {' and '.join(complete)}", "keep the keys of one form only"
        )
    if not complete:
        raise _unrecognised(value, where)
    if complete == ["messages"]:
        return Row(where, messages=_messages(value["messages"], where))
    if complete == ["text"]:
        return Row(where, text=_string(value, "text", where, filled=True))
    prompt_key, answer_key = _FORMS[complete[0]]
    prompt = _string(value, prompt_key, where, filled=False)
    return Row(where, prompt=prompt, answer=_string(value, answer_key, where, filled=True))


def _unrecognised(value: dict[str, Any], where: str) -> BadDataError:
    for keys in _FORMS.values():
        missing = [key for key in keys if key not in value]
        if len(missing) < len(keys):
            present = next(key for key in keys if key in value)
            return BadDataError(f"{where}: {present!r} without {missing[0]!r}", _HINT)
    found = ", ".join(repr(key) for key in sorted(value)) or "none"
    return BadDataError(f"{where}: no recognised form, keys found: {found}", _HINT)


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    hint = "messages is a list of {role, content} objects that ends with the assistant's answer"
    if not isinstance(value, list):
        raise BadDataError(f"{where}: 'messages' must be a list, found {_kind(value)}", hint)
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise BadDataError(f"{where}: message {number} must be an object, found {_kind(turn)}", hint)
        for key in ("role", "content"):
            if key not in turn:
                raise BadDataError(f"{where}: message {number} has no {key!r}", hint)
        is_answer = number == len(value)
        turns.append(
            Message(
                _string(turn, "role", f"{where}: message {number}", filled=True),
                _string(turn, "content", f"{where}: message {number}", filled=is_answer),
            )
        )
    if len(turns) < 2:
        raise BadDataError(f"{where}: 'messages' has {len(turns)} turn(s), expected two or more", hint)
    if turns[-1].role != "assistant":
        raise BadDataError(f"{where}: the last message is by {turns[-1].role!r}, expected 'assistant'", hint)
    return tuple(turns)


def _string(value: dict[str, Any], key: str, where: str, *, filled: bool) -> str:
    found = value[key]
    if not isinstance(found, str):
        raise BadDataError(f"{where}: {key!r} must be a string, found {_kind(found)}", _HINT)
    if filled and not found.strip():
        raise BadDataError(f"{where}: {key!r} is empty", "remove the row or fill it in")
    try:
        found.encode("utf-8")
    except UnicodeEncodeError:
        # JSON may spell half a surrogate pair ("\ud83d"), which no tokenizer accepts.
        raise BadDataError(f"{where}: {key!r} holds half a surrogate pair", "save the file as UTF-8") from None
    return found


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
