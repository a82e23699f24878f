"""The forms of a row: the keys of each, and what they must hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpu_cli.data.formats.table import RowError
from mpu_cli.data.mapping import nearest_column
from mpu_cli.data.row import Message, Row

FORMS = {
    "question/answer": ("question", "answer"),
    "prompt/completion": ("prompt", "completion"),
    "prompt/gt": ("prompt", "gt"),
    "messages": ("messages",),
    "text": ("text",),
}
"""Keys by form; TOFU and MUSE's questions have the first, MUSE's verbatim set the third."""
ALTERNATE = "alternate"
TOOLS = ("tools", "functions", "documents")
"""Keys beside messages that a chat template could render; mpu does not pass them on."""
_BESIDE_CONTENT = (
    "tool_calls",
    "function_call",
    "tool_call_id",
    "reasoning_content",
    "reasoning",
    "thinking",
    "images",
    "audio",
    "videos",
)
"""Such keys in a message."""
KEYS = frozenset(key for keys in FORMS.values() for key in keys) | {ALTERNATE}
HINT = (
    "a row has question and answer, or prompt and completion, or messages, or text; other names:"
    " --map prompt=COLUMN --map answer=COLUMN"
)
_DEFAULTS = {"prompt": ("question", "prompt"), "answer": ("answer", "completion", "gt")}


def recognise(value: Any, where: str, mapping: Mapping[str, str]) -> Row:
    """Make a row of a value of a file.

    Args:
        value: one row as its format returns it.
        where: its place.
        mapping: field → column, to use in place of the row's own keys (`mapping.py`).

    Raises:
        RowError: the row is broken, has no form or two, lacks a mapped column, or its answer is
            missing, empty or not text.
    """
    if not isinstance(value, dict):
        raise RowError(where, f"a row must be a JSON object, found {kind(value)}", HINT)
    for field, column in mapping.items():
        if column not in value:
            raise RowError(
                where, f"no {column!r} (--map {field}={column})", nearest_column(column, value)
            )
    keys = _keys_by_mapping(value, where, mapping) or _keys_by_form(value, where)
    if len(keys) == 2:
        prompt, answer = (
            _string(value, keys[0], where, filled=False),
            _string(value, keys[1], where, filled=True),
        )
        return Row(where, prompt, answer, alternate=_alternate(value, mapping, where))
    if "messages" in mapping or ("text" not in mapping and keys == FORMS["messages"]):
        _refuse_more_than_content(value, TOOLS, where, "")
        return Row(
            where,
            messages=_messages(value[keys[0]], keys[0], where),
            alternate=_alternate(value, mapping, where),
        )
    if ALTERNATE in mapping:
        raise RowError(
            where,
            "a text has no answer that an alternate could replace",
            "give prompt and answer, or messages",
        )
    return Row(where, text=_string(value, keys[0], where, filled=True))


def _keys_by_mapping(
    value: dict[str, Any], where: str, mapping: Mapping[str, str]
) -> tuple[str, ...] | None:
    for field in ("messages", "text"):
        if field in mapping:
            return (mapping[field],)
    if not {"prompt", "answer"} & set(mapping):
        return None
    keys = []
    for field, usual in _DEFAULTS.items():
        present = (
            [mapping[field]]
            if field in mapping
            else [key for key in usual if key in value and key not in mapping.values()]
        )
        if len(present) != 1:
            reason = (
                f"the row has both {' and '.join(map(repr, present))}"
                if present
                else f"the row has neither {' nor '.join(map(repr, usual))}"
            )
            raise RowError(
                where, f"no column for {field}: {reason}", f"name it: --map {field}=COLUMN"
            )
        keys += present
    return tuple(keys)


def _keys_by_form(value: dict[str, Any], where: str) -> tuple[str, ...]:
    complete = [form for form, keys in FORMS.items() if all(key in value for key in keys)]
    if len(complete) > 1:
        raise RowError(
            where,
            f"the row has two forms, {' and '.join(complete)}",
            "keep the keys of one form only, or choose with --map",
        )
    if complete:
        return FORMS[complete[0]]
    for keys in FORMS.values():
        missing = [key for key in keys if key not in value]
        if len(missing) < len(keys):
            present = next(key for key in keys if key in value)
            raise RowError(where, f"{present!r} without {missing[0]!r}", HINT)
    keys_found = ", ".join(map(repr, sorted(value))) or "none"
    raise RowError(where, f"no recognised form, keys found: {keys_found}", HINT)


def _alternate(value: dict[str, Any], mapping: Mapping[str, str], where: str) -> str | None:
    column = mapping.get(ALTERNATE, ALTERNATE)
    text = value.get(column)
    # TOFU's perturbed answers are a list of five; DPO compares with one alternate, the first.
    if isinstance(text, list):
        text = text[0] if text else None
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    return _string({column: text}, column, where, filled=True)


def _messages(value: Any, key: str, where: str) -> tuple[Message, ...]:
    hint = "messages is a list of {role, content} objects that ends with the assistant's answer"
    if not isinstance(value, list):
        raise RowError(where, f"{key!r} must be a list, found {kind(value)}", hint)
    turns = []
    for number, turn in enumerate(value, start=1):
        if not isinstance(turn, dict):
            raise RowError(where, f"message {number} must be an object, found {kind(turn)}", hint)
        _refuse_more_than_content(turn, _BESIDE_CONTENT, where, f"message {number}: ")
        for part in ("role", "content"):
            if part not in turn:
                raise RowError(where, f"message {number} has no {part!r}", hint)
        role, content = (
            _string(
                turn,
                part,
                where,
                filled=part == "role" or number == len(value),
                within=f"message {number}: ",
            )
            for part in ("role", "content")
        )
        turns.append(Message(role, content))
    if len(turns) < 2:
        raise RowError(where, f"{key!r} has {len(turns)} turn(s), expected two or more", hint)
    if turns[-1].role != "assistant":
        raise RowError(
            where, f"the last message is by {turns[-1].role!r}, expected 'assistant'", hint
        )
    return tuple(turns)


def _refuse_more_than_content(
    value: Mapping[str, Any], keys: tuple[str, ...], where: str, within: str
) -> None:
    """Refuse tool calls and the like: a chat template renders them, so the chat would change."""
    for key in keys:
        if value.get(key) not in (None, "", [], {}):
            message = f"{within}{key!r} would be lost, since mpu does not render it"
            raise RowError(
                where, message, "write it into the content, or remove the key or the row"
            )


def _string(
    value: Mapping[str, Any], key: str, where: str, *, filled: bool, within: str = ""
) -> str:
    text = value[key]
    if not isinstance(text, str):
        raise RowError(where, f"{within}{key!r} must be a string, found {kind(text)}", HINT)
    if filled and not text.strip():
        raise RowError(
            where, f"{within}{key!r} is empty", "remove the row or fill it in", empty=True
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # JSON may spell half a surrogate pair ("\ud83d"), which no tokenizer accepts.
        raise RowError(
            where, f"{within}{key!r} holds half a surrogate pair", "save the file as UTF-8"
        ) from None
    return text


def kind(value: Any) -> str:
    """The kind of a value, for messages."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "true or false",
        type(None): "null",
        bytes: "bytes",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")
