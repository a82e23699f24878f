"""An experiment: its steps, and which of them give the numbers of which run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mpu_cli.experiment.plan.schema import ExperimentPlan, Value
from mpu_cli.experiment.step import Graph

Kind = Literal["before", "noise-free", "mpu", "retain-model"]
"""What a run measures: the untouched model, plain unlearning on it, unlearning on perturbed copies,
or a model that never saw the forget set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResults:
    """The steps that give the numbers of one round, by name in the graph."""

    number: int
    """From 1; 0 for a model that nothing was done to."""
    eval: str
    aggregate: str | None = None
    error: str | None = None
    """‖Δ − Δ₀‖ / ‖Δ₀‖ of the whole change so far against the noise-free run's.

    Of a noise-free run's last round: of the next seed's noise-free run against it, which is what
    another order of the rows changes; None with one seed.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentRun:
    """One row of runs.csv."""

    name: str
    """Unique: "GradDiff kappa=0.1 copies=3 seed=1"."""
    kind: Kind
    data: str
    method: str | None = None
    variant: str | None = None
    axes: Mapping[str, Value]
    """The values of the other axes of the grid."""
    seed: int | None = None
    draw: int | None = None
    settings: Mapping[str, Value]
    """In effect: kappa, copies, offset, denoising, reparam and optimizer, those that apply."""
    rounds: tuple[RoundResults, ...]
    """The last one gives the run's own numbers."""
    audit: str | None = None
    """The step that audits the first handoff."""
    baseline: str | None = None
    """The name of the noise-free run that it is compared with."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that a plan asks for."""

    plan: ExperimentPlan
    graph: Graph
    runs: tuple[ExperimentRun, ...]
    warnings: tuple[str, ...] = ()
    """What the plan defines and no run uses."""
