"""TensorBoard event files (`--log-dir`).

Loss and learning rate by step, answer probabilities by epoch.

They say how the client's rows were forgotten, so they stay with the client.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mpu_cli.errors import UsageError


def check_available() -> None:
    """Refuse before any work starts.

    Raises:
        UsageError: TensorBoard is not installed.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--log-dir needs TensorBoard, which is not installed",
            "pip install 'mpu-cli[tensorboard]'",
        )


class EventLog:
    """One run's event files in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        """Event files are added to a directory that has some, as TensorBoard expects of a resumed run."""
        check_available()
        from torch.utils.tensorboard.writer import SummaryWriter

        writer: Any = SummaryWriter
        self._writer = writer(str(directory))

    def scalars(self, step: int, **values: float | None) -> None:
        """Add values of one step; None is left out."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()
