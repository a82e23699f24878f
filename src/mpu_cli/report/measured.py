"""What settings of `perturb` cost: rows that `benchmarks/frontier.py` measured on other models.

They come with the documentation (docs/measured). A page that shows them says whose they are: on
another model the same setting costs something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mpu_cli.documentation import folders
from mpu_cli.report.numbers import short
from mpu_cli.server.denoising import default_coefficients
from mpu_cli.server.lineage.exposure import Exposure, Prior, exposure

_PATTERN = "measured/frontier-*.jsonl"
_TITLES = {
    "frontier-smollm2": "SmolLM2-135M on TOFU rows",
    "frontier-demo": "the demo's model",
}
_NUMBERS = ("one_copy", "all_copies", "error", "forget", "retain")
_PAPER = "paper:"


@dataclass(frozen=True, slots=True)
class DrawRange:
    """A number over draws of the noise."""

    middle: float
    """The median."""
    low: float
    high: float

    def __str__(self) -> str:
        if short(self.low) == short(self.high):
            return short(self.middle)
        return f"{short(self.middle)} ({short(self.low)}–{short(self.high)})"


@dataclass(frozen=True, slots=True)
class Measured:
    """One setting on one model."""

    setting: str
    draws: int
    numbers: Mapping[str, DrawRange]
    """By name: one_copy, all_copies, error, forget, retain."""


@dataclass(frozen=True, slots=True)
class Frontier:
    """All settings that were measured on one model."""

    model: str
    file: str
    settings: tuple[Measured, ...]


def frontiers() -> list[Frontier]:
    """What the installed documentation holds; a file that cannot be read is left out."""
    for folder in folders():
        files = sorted(folder.glob(_PATTERN), reverse=True)
        if files:
            return [found for file in files if (found := _read(file)) is not None]
    return []


def _read(file: Path) -> Frontier | None:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return None
    rows = [row for row in rows if isinstance(row, dict) and _is_complete(row)]
    names = dict.fromkeys(str(row["setting"]) for row in rows)
    settings = tuple(
        _measured(name, [row for row in rows if row["setting"] == name]) for name in names
    )
    return Frontier(_TITLES.get(file.stem, file.stem), file.name, settings) if settings else None


def _is_complete(row: Mapping[str, object]) -> bool:
    """The runs without noise, and the model before, have neither a leak nor an error."""
    return "setting" in row and all(isinstance(row.get(name), int | float) for name in _NUMBERS)


def _measured(name: str, rows: Sequence[Mapping[str, float]]) -> Measured:
    def spread(key: str) -> DrawRange:
        values = [row[key] for row in rows]
        return DrawRange(median(values), min(values), max(values))

    return Measured(name, len(rows), {key: spread(key) for key in _NUMBERS})


def stated(setting: str, prior: Prior) -> Exposure | None:
    """What `perturb` would state of a setting on a model with this prior.

    None if the setting's name says something that this function does not know.
    """
    words = list(_words(setting))
    values = {name: float(value) for name, value in words if value}
    flags = {name for name, value in words if not value}
    if flags - {"equal α", "extrapolation", "one copy", "rotation"}:
        return None
    size = 1 if "one copy" in flags else int(values.get("m", 3))
    denoising = "extrapolation" if "extrapolation" in flags else "harmonic"
    coefficients = (1.0,) * size if "equal α" in flags else default_coefficients(denoising, size)
    return exposure(denoising, values.get("κ", 0.0), coefficients, values.get("offset", 0.0), prior)


def _words(setting: str) -> Iterator[tuple[str, str]]:
    """The parts of a name such as "κ 1, m 3, equal α", each with its number, or ""."""
    for part in setting.removeprefix(_PAPER).split(","):
        match = re.fullmatch(r"(κ|m|offset) (\d*\.?\d+)", part.strip())
        yield (match[1], match[2]) if match else (part.strip(), "")
