"""The rows that a run trains on, as tokens, and the order in which they come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mpu_cli.data.batches import FIRST_ROUND, RowSampling, epoch_pairs
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class TrainingSets:
    """Forget rows, retain rows and alternate answers of one run."""

    forget: Sequence[TokenizedRow]
    """An epoch is one pass over them."""
    retain: Sequence[TokenizedRow] | None = None
    """Not read unless the loss or a threshold asks for them."""
    pad_id: int = 0
    """The token that fills short rows."""
    alternates: Sequence[TokenizedRow] | None = None
    """Another answer to each forget row, in order; or as many for each epoch, in turn."""
    unanswerable: Sequence[TokenizedRow] | None = None
    """Questions that the model refuses or cannot answer; only their prompts are read."""
    sampling: RowSampling = FIRST_ROUND
    """What the order depends on besides the seed."""

    def check(self, inputs: Collection[str]) -> None:
        """Make sure that the rows are there that a loss with these inputs reads.

        Raises:
            ValueError: rows are missing; a caller refuses this before it loads anything.
        """
        if "retain" in inputs and not self.retain:
            raise ValueError("this loss needs retain rows")
        alternates = len(self.alternates or ())
        if "alternate" in inputs and (not alternates or alternates % len(self.forget)):
            raise ValueError("this loss needs an alternate answer to each forget row")
        if "direction" in inputs and not self.unanswerable:
            raise ValueError("this loss needs unanswerable questions")

    def retain_rows_met(self, settings: TrainingSettings) -> list[int]:
        """The indices of the retain rows that the run's epochs meet, sorted."""
        n_forget, n_retain = len(self.forget), len(self.retain or ())
        walks = not self.sampling.independent
        if not n_retain or (walks and settings.epochs * n_forget >= n_retain):
            return list(range(n_retain))
        return sorted(
            {
                j
                for epoch in range(settings.epochs)
                for _, j in epoch_pairs(settings.seed, epoch, n_forget, n_retain, self.sampling)
                if j is not None
            }
        )
