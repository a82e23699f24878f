"""The results of `mpu run` as the paper's page reads them (runs.csv): shared, not a benchmark."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.errors import BadDataError

NEEDED = (
    *("kind", "method", "seed", "kappa", "copies", "offset", "denoising", "reparam", "optimizer"),
    *("forget", "retain", "error"),
)
"""Columns that every table must have; `data`, `variant` and `draw` are read where they are."""
_HINT = "make it with mpu run, from a plan of examples/paper-table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run: a setting with one seed and one draw of the noise."""

    kind: str
    """before, noise-free, mpu or retain-model."""
    method: str
    optimizer: str
    variant: str
    data: str
    denoising: str
    reparam: str
    seed: int | None
    draw: int
    kappa: float
    copies: int
    offset: float
    forget: float
    """Mean answer probability of the forget rows after the last round, between 0 and 1."""
    retain: float
    error: float | None
    """‖Δ − Δ₀‖ / ‖Δ₀‖ against the noise-free run of the same seed; of a noise-free run, against the
    next seed's: what another order of the rows changes."""

    @property
    def score(self) -> float:
        """What unlearning is for, between 0 and 1: the mean of 1 − forget and retain."""
        return (1 - self.forget + self.retain) / 2

    @property
    def baseline(self) -> tuple[object, ...]:
        """What a run and its noise-free run have in common."""
        return (self.method, self.optimizer, self.variant, self.data, self.seed)


@dataclass(frozen=True, slots=True)
class Table:
    """All runs of one plan."""

    name: str
    runs: tuple[Run, ...]
    noise_free: Mapping[tuple[object, ...], Run]
    """By `Run.baseline`."""

    @property
    def methods(self) -> list[str]:
        """In the order of the plan."""
        return list(dict.fromkeys(run.method for run in self.runs if run.method))

    def noisy(self, **settings: object) -> list[Run]:
        """The runs on perturbed copies with these settings."""
        return [
            run
            for run in self.runs
            if run.kind == "mpu"
            and all(getattr(run, name) == value for name, value in settings.items())
        ]

    def values(self, name: str, **settings: object) -> list[object]:
        """The different values of a setting among those runs, rising."""
        return sorted({getattr(run, name) for run in self.noisy(**settings)})


def read_table(path: Path) -> Table:
    """Read one runs.csv.

    Raises:
        BadDataError: a column is missing, a number is none, or a noise-free run is there twice or
            missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if missing := [name for name in NEEDED if name not in (reader.fieldnames or ())]:
            raise BadDataError(f"{path.name}: no column {', '.join(missing)}", _HINT)
        runs = tuple(_run(path.name, reader.line_num, row) for row in reader)
    return table(path.name, runs)


def table(name: str, runs: Sequence[Run]) -> Table:
    """Match runs with their noise-free runs.

    Raises:
        BadDataError: there are two, or none.
    """
    noise_free: dict[tuple[object, ...], Run] = {}
    for run in runs:
        if run.kind == "noise-free":
            if run.baseline in noise_free:
                raise BadDataError(
                    f"{name}: two noise-free runs of {run.method}, seed {run.seed}",
                    "give the settings in which they differ a variant of the plan",
                )
            noise_free[run.baseline] = run
    for run in runs:
        if run.kind == "mpu" and run.baseline not in noise_free:
            raise BadDataError(
                f"{name}: {run.method}, seed {run.seed} has no noise-free run", "baseline: true"
            )
    return Table(name, tuple(runs), noise_free)


def _run(name: str, line: int, row: Mapping[str, str | None]) -> Run:
    def number(column: str, *, least: float = 0.0, most: float = math.inf) -> float | None:
        text = (row.get(column) or "").strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            raise BadDataError(f"{name}, line {line}: {column} is {text!r}, not a number", _HINT)
        return value

    def needed(column: str, most: float = 1.0) -> float:
        if (value := number(column, most=most)) is None:
            raise BadDataError(f"{name}, line {line}: {column} is missing", _HINT)
        return value

    seed, kind = number("seed"), row.get("kind") or ""
    return Run(
        kind=kind,
        **{
            column: (row.get(column) or "")
            for column in ("method", "optimizer", "variant", "data", "denoising", "reparam")
        },
        seed=None if seed is None else int(seed),
        draw=int(number("draw") or 1),
        kappa=number("kappa") or 0.0,
        copies=int(number("copies") or 0),
        offset=number("offset") or 0.0,
        forget=needed("forget"),
        retain=needed("retain"),
        error=needed("error", math.inf) if kind == "mpu" else number("error"),
    )
