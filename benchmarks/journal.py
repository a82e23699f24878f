"""Results kept as they come, one JSON object a line, so that a run that was cut goes on.

Shared by benchmarks, not one itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """Results by key in one file; a last line that was cut while it was written does not count."""

    def __init__(self, path: Path) -> None:
        """Read what is there; lines are only ever added."""
        self._path = path
        self._found: dict[str, Any] = {}
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            path.write_bytes(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            self._found[_text(entry["key"])] = entry["result"]

    def get(self, key: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result under `key`.

        The kept one, or `measure()`, which is on disk before this returns.
        """
        if _text(key) not in self._found:
            result = measure()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "result": result}) + "\n")
                file.flush()
                os.fsync(file.fileno())
            self._found[_text(key)] = result
        found: dict[str, Any] = self._found[_text(key)]
        return found

    def has(self, key: dict[str, Any]) -> bool:
        """Whether a result is there already."""
        return _text(key) in self._found


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
