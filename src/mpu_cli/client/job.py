"""What the client asks `mpu unlearn` to do, and the callbacks for progress and warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.signatures.trust import ANYBODY, Trust
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.reference_source import ReferenceSource
from mpu_cli.client.settings import CheckpointSettings
from mpu_cli.data.rows import Row
from mpu_cli.modeling.processes import this_process

_VERSIONED = ("torch", "transformers", "accelerate")


@dataclass(frozen=True, slots=True)
class UnlearnJob:
    """Rows, recipe and how the result is stored."""

    forget: list[Row]
    retain: list[Row] | None
    recipe: Recipe
    delta_dtype: str
    shard_bytes: int
    keeping: CheckpointSettings = field(default_factory=CheckpointSettings)
    refusals: tuple[str, ...] = ()
    """Alternate answers that are drawn anew in each epoch, if the recipe asks for it."""
    unanswerable: list[Row] | None = None
    """Questions that the model refuses or cannot answer."""
    reference: ReferenceSource | None = None
    """The model that the method compares with; None = the model that is trained."""
    log_dir: Path | None = None
    """TensorBoard's event files go into a directory for each copy below it."""
    trust: Trust = ANYBODY
    """Who must have signed the handoff."""
    signing: SigningKey | None = None
    """Signs the update."""
    resume_with: str = "the same command with --resume"
    """The command that continues an interrupted run, for messages."""
    warn: Callable[[str], None] = lambda text: None
    """Called with what the user must not miss."""
    note: Callable[[str], None] = lambda text: None
    """Called with what became of the rows."""
    checking: Callable[[int, int], None] = lambda done, total: None
    """Called with the bytes of the handoff that were checked, and with all of them."""
    doing: Callable[[str], None] = lambda what: None
    """Called with the name of each phase that is not a training step."""

    def identity(self, source: str) -> dict[str, Any]:
        """The identity of this job: a checkpoint with another one is not resumed.

        `source` is the digest of the handoff or model. Other versions of a library give other bits.
        """
        return {
            **self.recipe.in_words(),
            "the handoff or model": source,
            "--delta-dtype": self.delta_dtype,
            "--max-shard-size": self.shard_bytes,
            "the number of processes": this_process().size,
            **{f"the version of {name}": version(name) for name in _VERSIONED},
        }
