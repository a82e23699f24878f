"""The device that a model runs on."""

from __future__ import annotations

import torch

from mpu_cli.errors import UsageError


def choose_device(wanted: str) -> str:
    """The device asked for, or the best that is there.

    Raises:
        UsageError: there is none of that kind.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, is_there in present.items() if is_there)
    if not present[wanted]:
        raise UsageError(
            f"--device {wanted}: there is none on this machine", "leave --device out, or use cpu"
        )
    return wanted
