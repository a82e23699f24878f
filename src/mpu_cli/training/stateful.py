"""A loss that remembers something from step to step, and how the trainer keeps that with its checkpoints."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StatefulLoss(Protocol):
    """A loss (model, batch) → scalar with a state that belongs into every checkpoint.

    The trainer calls `end_epoch` after each pass over the forget set (also the last, and a last one
    cut short), in every process alike; a run resumed from `state_dict` goes on as if it had not
    been interrupted.
    """

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """The loss of one batch; a call in training counts into the epoch."""
        ...

    def end_epoch(self) -> None:
        """Take note that a pass over the forget set is over."""
        ...

    def state_dict(self) -> dict[str, float]:
        """Everything that a later call depends on, as plain numbers that JSON keeps exactly."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go back to such a state."""
        ...
