"""The device that a model runs on."""

from __future__ import annotations

from typing import Literal

from mpu_cli.errors import UsageError

Device = Literal["auto", "cpu", "cuda", "mps"]


def choose_device(wanted: str) -> str:
    """The wanted device, or for "auto" the best one on this machine.

    Raises:
        UsageError: this machine has none of that kind.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, is_there in available.items() if is_there)
    if not available[wanted]:
        raise UsageError(
            f"--device {wanted}: this machine has none", "leave --device out, or use cpu"
        )
    return wanted
