"""The interface of a loss with a state, which checkpoints keep."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class StatefulLoss(Protocol):
    """A loss (model, batch) → scalar with a state that belongs into every checkpoint.

    The trainer calls `end_epoch` in every process after each pass over the forget set, the last and
    an incomplete one included. A run resumed from `state_dict` has the bits of an uninterrupted
    one.
    """

    def __call__(self, model: Any, batch: Any) -> Tensor:
        """The loss of one batch; a call in training counts for the epoch."""
        ...

    def end_epoch(self) -> None:
        """Record that a pass over the forget set is over."""
        ...

    def state_dict(self) -> dict[str, float]:
        """The state as plain numbers, which JSON keeps exactly."""
        ...

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Restore such a state."""
        ...
