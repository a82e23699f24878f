"""What a run did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpu_cli.training.early_stop import StopCheck
from mpu_cli.training.effect import Effect
from mpu_cli.training.states_effect import StatesEffect


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """The result of a run. Each loss was measured before its step's update."""

    steps: int
    seconds: float
    first_loss: float
    last_loss: float
    evaluations: tuple[StopCheck, ...] = ()
    """After each epoch, if a threshold asks for it."""
    resumed_from: int | None = None
    """The step of the checkpoint that the run continued from."""
    effect: Effect | None = None
    """How the answers changed; None for the lower layers of a model, which have no answers."""
    states: StatesEffect | None = None
    """How the hidden states moved; only for the lower layers of a model."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TrainingReport:
        """Rebuild a report from what `dataclasses.asdict` made of one."""
        evaluations = tuple(StopCheck(**check) for check in content["evaluations"])
        effect = Effect.of(content["effect"]) if content.get("effect") else None
        states = StatesEffect(**content["states"]) if content.get("states") else None
        made = {"evaluations": evaluations, "effect": effect, "states": states}
        return cls(**{**content, **made})


@dataclass(slots=True)
class Progress:
    """What has happened so far; checkpoints hold it."""

    losses: list[float] = field(default_factory=list)
    """The loss of each step."""
    evaluations: list[StopCheck] = field(default_factory=list)
    seconds: float = 0.0
    """Time that earlier processes spent on this run."""
