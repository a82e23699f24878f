"""The client's settings beside those of training: the LoRA adapter and the checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpu_cli.bundle.schema import MAX_RANK
from mpu_cli.option import REQUIRED, Settings, option
from mpu_cli.training.checkpoints import SavePlan

DEFAULT_ROLES = ("q", "k", "v", "gate", "up")


def parse_targets(text: str) -> tuple[str, ...]:
    """Read `q,k,v_proj`; the default roles in their order are the same as no targets."""
    targets = tuple(part.strip() for part in text.split(",") if part.strip())
    return () if targets == DEFAULT_ROLES else targets


@dataclass(frozen=True, slots=True)
class Lora(Settings):
    """The adapter that is trained instead of the weights.

    Raises:
        UsageError: a value is out of range.
    """

    rank: int = option(
        REQUIRED,
        "Train a LoRA adapter of this rank instead of the weights.",
        panel="Method",
        flag="--lora-rank",
        least=1,
        most=MAX_RANK,
    )
    alpha: float | None = option(
        None,
        "Scale α of the adapter: B A is multiplied by α / rank.",
        flag="--lora-alpha",
        shown="twice the rank",
        above=0,
        most=1e6,
    )
    targets: tuple[str, ...] = option(
        (),
        "Weights that get an adapter: roles (q, k, v, gate, up, o, down) or module names.",
        flag="--lora-targets",
        shown=",".join(DEFAULT_ROLES),
        metavar="NAME,NAME,…",
        parse=parse_targets,
    )

    @property
    def scaling(self) -> float:
        """α."""
        return 2.0 * self.rank if self.alpha is None else float(self.alpha)


@dataclass(frozen=True, slots=True)
class CheckpointSettings(Settings):
    """When a run writes checkpoints, and where."""

    resume: bool = option(False, "Continue an interrupted run of the same command.", panel="Output")
    steps: int | None = option(
        None,
        "Write a checkpoint each time this number of steps has passed.",
        flag="--save-steps",
        least=1,
        metavar="STEPS",
    )
    # A killed run loses at most this, beside the time of writing a checkpoint.
    seconds: float = option(
        900.0,
        "Write a checkpoint each time this number of seconds has passed; 0 turns this off.",
        flag="--save-seconds",
        least=0,
        metavar="SECONDS",
    )
    directory: Path | None = option(
        None,
        "Directory for checkpoints.",
        flag="--work",
        shown="a hidden private directory beside OUT",
        metavar="DIR",
    )

    @property
    def asked(self) -> bool:
        """Whether the user wants a checkpoint of any run, however short it was."""
        return self.resume or self.steps is not None or self.directory is not None

    @property
    def plan(self) -> SavePlan:
        """When checkpoints are due."""
        return SavePlan(self.steps, self.seconds or None)
