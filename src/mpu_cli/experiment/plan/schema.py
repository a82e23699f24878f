"""What a plan holds, read and checked key by key; no file that it names has been opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mpu_cli.experiment.plan.commands import Section
from mpu_cli.experiment.plan.document import Document, Keys

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...] | None
"""The value of an option; None stands for an option that is not given."""


@dataclass(frozen=True, slots=True)
class Given:
    """The value of an option, and where the plan gives it."""

    value: Value
    keys: Keys = field(compare=False, repr=False)


Options = Mapping[Section, Mapping[str, Given]]
"""Options by section and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Settings that are laid over those before them: the plan's own, a method's, a variant's."""

    options: Options = field(default_factory=dict)
    rounds: int | None = None
    methods: Mapping[str, Layer] = field(default_factory=dict)
    """More for one method only."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid."""

    name: str
    """As results name it: "kappa", "unlearn.train_embeddings", "method", "data", "variant"."""
    section: Section | None
    """None for method, data, variant and rounds."""
    option: str
    values: tuple[Given, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A cross product, and the seeds and draws of each of its cells."""

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    draws: int
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Named files of rows: those that the client trains on, and those to evaluate on."""

    name: str
    train: Mapping[str, str]
    """Role (forget, retain, cover, refusals, unanswerable) → file or hf:// location."""
    measured: Mapping[str, tuple[str, ...]]
    """Role (forget, retain, holdout, utility, …) → files, some as NAME=FILE."""
    retain_model: str | None
    keys: Keys


@dataclass(frozen=True, slots=True)
class Resources:
    """What a step of one kind needs of a cluster."""

    minutes: int = 60
    memory_gb: float = 8.0
    gpus: int = 0
    cpus: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentPlan:
    """A whole plan."""

    document: Document
    text: bytes
    """The file as given."""
    directory: Path
    """What paths in it are relative to."""
    name: str
    model: str
    """Absolute path or Hub id, as `base` and `retain_model`."""
    base: str | None
    splits: Mapping[str, Split]
    common: Layer
    variants: Mapping[str, Layer]
    grids: tuple[Grid, ...]
    baseline: bool
    one_copy: bool
    audits: bool
    resources: Mapping[str, Resources]
