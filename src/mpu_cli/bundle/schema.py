"""Check parsed content field by field: every key is known, every value has its type and form."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isfinite, nan
from typing import Any

from mpu_cli.errors import MpuError

HEX_128 = re.compile(r"[0-9a-f]{32}")
HEX_256 = re.compile(r"[0-9a-f]{64}")
COPY_NAME = re.compile(r"copy-[1-9][0-9]{0,3}")
FILE_NAME = re.compile(r"(?:additional_chat_templates/)?[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
"""A plain name without a leading dot, in the copy or in its folder of chat templates, so no path
leaves the directory."""
TENSOR_PATTERN = re.compile(r"[!-~]{1,255}")
"""A tensor's name or a glob pattern: printable ASCII, safe to show and to compare."""

MAX_RANK = 512
"""Largest rank of an adapter.

Beyond it a dense update is smaller, and A does not fit the memory that aggregation promises."""


class FieldReader:
    """Reads one map strictly; every error names the file and the field."""

    def __init__(self, content: Any, where: object, error: type[MpuError]) -> None:
        self._where, self._error = where, error
        if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
            raise error(f"{where}: expected a map")
        self._content = content
        self._seen: set[str] = set()

    def has(self, key: str) -> bool:
        """Whether the map has a key that older versions did not write."""
        return key in self._content

    def take(self, key: str) -> Any:
        """The value of a required key."""
        if key not in self._content:
            raise self.wrong(key, "is missing")
        self._seen.add(key)
        return self._content[key]

    def text(
        self, key: str, form: re.Pattern[str] | None = None, choices: tuple[str, ...] = ()
    ) -> str:
        """A string that matches `form` and is one of `choices`, if given."""
        value = self.take(key)
        if (
            not isinstance(value, str)
            or (form and not form.fullmatch(value))
            or (choices and value not in choices)
        ):
            raise self.wrong(key, "has an unexpected value")
        return value

    def natural(self, key: str) -> int:
        """An integer ≥ 0."""
        value = self.take(key)
        if type(value) is not int or value < 0:
            raise self.wrong(key, "is not an integer ≥ 0")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = self.take(key)
        try:
            number = float(value) if type(value) in {int, float} else nan
        except OverflowError:  # an integer beyond every float
            number = nan
        if not isfinite(number):
            raise self.wrong(key, "is not a finite number")
        return number

    def flag(self, key: str) -> bool:
        """A boolean; an absent key is false."""
        value = self.take(key) if self.has(key) else False
        if type(value) is not bool:
            raise self.wrong(key, "is neither true nor false")
        return value

    def optional_text(self, key: str, form: re.Pattern[str] | None = None) -> str | None:
        """A string or null."""
        return None if self.take(key) is None else self.text(key, form)

    def texts(self, key: str, form: re.Pattern[str] | None = None) -> tuple[str, ...]:
        """A list of strings."""
        value = self.take(key)
        if not isinstance(value, list) or not all(
            isinstance(item, str) and (not form or form.fullmatch(item)) for item in value
        ):
            raise self.wrong(key, "is not a list of strings")
        return tuple(value)

    def numbers(self, key: str) -> dict[str, float]:
        """A map of finite numbers."""
        inner = FieldReader(self.take(key), f"{self._where}: {key}", self._error)
        result = {name: inner.number(name) for name in inner._content}
        inner.done()
        return result

    def maps(self, key: str) -> list[FieldReader]:
        """A list of maps."""
        value = self.take(key)
        if not isinstance(value, list):
            raise self.wrong(key, "is not a list")
        return [FieldReader(item, f"{self._where}: {key}", self._error) for item in value]

    def entries(
        self, key: str, form: re.Pattern[str], make: Callable[[FieldReader], Any]
    ) -> dict[str, Any]:
        """A map of maps; the keys match `form`, and `make` reads each value."""
        inner = FieldReader(self.take(key), f"{self._where}: {key}", self._error)
        result = {}
        for name in inner._content:
            if not form.fullmatch(name):
                raise inner.wrong(name, "is not an allowed name")
            result[name] = make(
                FieldReader(inner.take(name), f"{self._where}: {key}: {name}", self._error)
            )
        return result

    def done(self) -> None:
        """Refuse keys that were never read."""
        unknown = sorted(set(self._content) - self._seen)
        if unknown:
            raise self.wrong(unknown[0], "is not a known field")

    def wrong(self, key: str, why: str) -> MpuError:
        """Return the error for a field."""
        return self._error(
            f"{self._where}: field {key!r} {why}",
            "update mpu if a newer version wrote the file, or else ask for the file again",
        )
