"""The YAML of a plan as plain data, with the line of every value for messages.

Anchors, aliases, tags and keys that occur twice are refused, and size and depth are bounded, so
that reading takes bounded time. Scalars follow YAML 1.2: `1e-4` is a number, `no` is a word, and a
date is a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.documentation import page
from mpu_cli.errors import UsageError
from mpu_cli.foreign_text import shown
from mpu_cli.registry import did_you_mean

MAX_BYTES = 1 << 20
MAX_DEPTH = 12
Keys = tuple[str | int, ...]
"""Where a value stands: the keys of the maps and the positions in the lists around it."""
_NULL = re.compile(r"|~|null|Null|NULL")
_TRUE, _FALSE = re.compile(r"true|True|TRUE"), re.compile(r"false|False|FALSE")
_INTEGER = re.compile(r"[-+]?[0-9]{1,30}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file."""

    name: str
    """What messages call it."""
    content: dict[str, Any]
    lines: Mapping[Keys, int] = field(default_factory=dict)
    """The line, from 1, of each value."""
    data: bytes = b""
    """The bytes of the file."""

    def wrong(self, keys: Keys, what: str, hint: str | None = None) -> UsageError:
        """The error for a value: it names the file, the line and the keys."""
        return UsageError(f"{self.place(keys)}: {what}", hint)

    def place(self, keys: Keys) -> str:
        """File, line and keys of a value: "plan.yaml:7: grid.kappa"."""
        known = next(
            (keys[:end] for end in range(len(keys), 0, -1) if keys[:end] in self.lines), ()
        )
        line = f":{self.lines[known]}" if known else ""
        dotted = "".join(
            f"[{key + 1}]" if isinstance(key, int) else f".{shown(key)}" for key in keys
        ).removeprefix(".")
        return f"{self.name}{line}" + (f": {dotted}" if dotted else "")

    def map(self, keys: Keys, value: object) -> dict[str, Any]:
        """The value as a map.

        Raises:
            UsageError: it is none.
        """
        if not isinstance(value, dict):
            raise self.wrong(keys, "expected a map of names to values")
        return value

    def known(self, keys: Keys, value: object, names: Sequence[str]) -> dict[str, Any]:
        """The value as a map with no other keys than these.

        Raises:
            UsageError: a key is unknown; the hint names the nearest.
        """
        content = self.map(keys, value)
        for key in content:
            if key not in names:
                hint = did_you_mean(key, names, f"known: {', '.join(names)}")
                raise self.wrong((*keys, key), "unknown key", hint)
        return content


def read_document(path: Path) -> Document:
    """Read a YAML file.

    Raises:
        UsageError: it cannot be read, is too large, or is not a map in the YAML described above.
    """
    hint = "give a plan: a YAML file that you may read"
    return parse_document(read_file(path, MAX_BYTES, UsageError, hint), str(path))


def parse_document(data: bytes, name: str) -> Document:
    """Parse YAML; the arguments and errors of `read_document`."""
    import yaml

    try:
        text = data.decode("utf-8")
        reader = _EventReader(
            name, yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        )
        content = reader.document()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: not UTF-8", "save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "not valid YAML"
        raise UsageError(f"{name}{line}: not valid YAML: {problem}") from error
    if content is None:
        raise UsageError(f"{name}: empty", f"{page('experiments')} describes a plan")
    if not isinstance(content, dict):
        raise UsageError(f"{name}: expected a map of names to values")
    return Document(name, content, reader.lines, data)


class _EventReader:
    """Builds plain data from the parser's events."""

    def __init__(self, name: str, events: Iterator[Any]) -> None:
        self._name, self._events = name, events
        self.lines: dict[Keys, int] = {}

    def document(self) -> Any:
        """The content of the only document; None if there is none."""
        import yaml

        content, seen = None, False
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    raise self._refused(event, "a second document")
                seen = True
            elif isinstance(event, yaml.NodeEvent):
                content = self._value(event, ())
        return content

    def _value(self, event: Any, keys: Keys) -> Any:
        import yaml

        if len(keys) > MAX_DEPTH:
            raise self._refused(event, f"more than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise self._refused(event, "an anchor or an alias")
        if event.tag is not None and event.tag != "!":
            raise self._refused(event, "a tag")
        self.lines[keys] = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            return event.value if event.style else _scalar(event.value)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(keys)
        return self._map(keys)

    def _list(self, keys: Keys) -> list[Any]:
        import yaml

        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*keys, len(items))))
        return items

    def _map(self, keys: Keys) -> dict[str, Any]:
        import yaml

        content: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent) or event.anchor or event.tag:
                raise self._refused(event, "a key that is no plain text")
            if event.value in content:
                raise self._refused(event, f"the key {event.value!r} a second time")
            here, line = (*keys, event.value), _line(event)
            content[event.value] = self._value(next(self._events), here)
            self.lines[here] = line
        return content

    def _refused(self, event: Any, what: str) -> UsageError:
        return UsageError(f"{self._name}:{_line(event)}: {what} is not allowed here")


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _scalar(text: str) -> Any:
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text
