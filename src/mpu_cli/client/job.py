"""What the client asks for: rows, a recipe, and what is reported while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mpu_cli.client.recipe import Recipe
from mpu_cli.client.reference_source import ReferenceSource
from mpu_cli.client.training_rows import TrainingRows
from mpu_cli.client.work_directory import Keeping
from mpu_cli.data.rows import Row
from mpu_cli.modeling.processes import this_process


@dataclass(frozen=True, slots=True)
class UnlearnJob:
    """What the client brings."""

    forget: list[Row]
    retain: list[Row] | None
    recipe: Recipe
    delta_dtype: str
    shard_bytes: int
    keeping: Keeping = field(default_factory=Keeping)
    refusals: tuple[str, ...] = ()
    """Drawn anew in each epoch, if the recipe asks for it."""
    reference: ReferenceSource | None = None
    """What the method compares with; None = the model that is trained, as it comes."""
    log_dir: Path | None = None
    """Event files go into a directory for each copy below it."""
    resume_with: str = "the same command with --resume"
    """What an interrupted run is gone on with, as the user is told."""
    warn: Callable[[str], None] = lambda text: None
    """Told what the reader must not miss."""
    note: Callable[[str], None] = lambda text: None
    """Told what became of the rows."""
    doing: Callable[[str], None] = lambda what: None
    """Told what is being done beside steps."""
    rows: TrainingRows | None = None
    """The rows as tokens, once they are encoded for a model; the recipe then has their digest."""

    def identity(self, source: str) -> dict[str, Any]:
        """What must be the same for a checkpoint to be gone on from.

        Versions too, since other ones give other bits.
        """
        return {
            **self.recipe.in_words(),
            "the handoff or model": source,
            "--delta-dtype": self.delta_dtype,
            "--max-shard-size": self.shard_bytes,
            "the number of processes": this_process().size,
            **{
                f"the version of {name}": version(name)
                for name in ("torch", "transformers", "accelerate")
            },
        }
