"""One line of the audit: what can be learned, the number, its interval and its control."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that the server can, or cannot, learn from the update."""

    key: str
    """Its name in JSON."""
    what: str
    measured: str
    meaning: str
    """One sentence for the data owner."""
    interval: tuple[float, float] | None = None
    """95 %."""
    control: str | None = None
    """The same measurement on rows that all belong to one side, with its interval."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """All values, for JSON."""
    gated: Mapping[str, float] = field(default_factory=dict)
    """Values by the names that conditions of `--fail-if` use."""

    def content(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "what": self.what,
            "measured": self.measured,
            "interval": None if self.interval is None else list(self.interval),
            "control": self.control,
            "meaning": self.meaning,
            **self.numbers,
        }
