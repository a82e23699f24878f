"""TensorBoard event files (`--log-dir`): loss and rate by step, answer probabilities by epoch.

They show how the client's rows were forgotten, so they stay with the client.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from mpu_cli.errors import UsageError


def check_available() -> None:
    """Raise UsageError if TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise UsageError(
            "--log-dir needs TensorBoard, which is not installed",
            "pip install 'mpu-cli[tensorboard]'",
        )


class EventLog:
    """The event files of one run."""

    def __init__(self, directory: Path) -> None:
        """Add a file to `directory`: TensorBoard reads several as one resumed run."""
        check_available()
        from torch.utils.tensorboard.writer import SummaryWriter

        writer: Any = SummaryWriter
        self._writer = writer(str(directory))

    def scalars(self, step: int, **values: float | None) -> None:
        """Add the values of one step that are not None."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is still buffered."""
        self._writer.close()
