"""The tensors of a masked update: 32-bit integers, uniform alone, whose sum is the members' change.

Never imports torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from mpu_cli.bundle.mask import MASKED
from mpu_cli.bundle.tensors import is_frozen, open_delta
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.errors import GateError

STORED = "I32"
"""The dtype of every tensor."""


def open_masked(directory: Path) -> dict[str, TensorInfo]:
    """The tensors of one copy of a masked update.

    Raises:
        BadBundleError: malformed files, or an index that disagrees with its shards.
        GateError: a tensor of another dtype.
    """
    tensors = open_delta(directory, MASKED)
    for name, info in sorted(tensors.items()):
        if info.dtype != STORED:
            raise GateError(
                f"{directory}: tensor {name} is {info.dtype}, expected 32-bit integers",
                "mask the update again",
            )
    return tensors


def check_masked(
    where: Path,
    tensors: Mapping[str, TensorInfo],
    expected: Mapping[str, tuple[int, ...]],
    frozen: Collection[str],
) -> None:
    """Check that the tensors are exactly those that an update may change.

    An absent one would say that it did not change, and its masks would not cancel.

    Raises:
        GateError: a foreign, frozen or missing tensor, or another shape.
    """
    changing = {name: shape for name, shape in expected.items() if not is_frozen(name, frozen)}
    for name in sorted(tensors.keys() | changing.keys()):
        if name not in changing:
            why = "the handoff freezes it" if name in expected else "the model has no such tensor"
            raise GateError(f"{where}: holds tensor {name}, but {why}", "mask the update again")
        if name not in tensors:
            raise GateError(
                f"{where}: tensor {name} is missing; a masked update holds every tensor that may"
                " change",
                "mask the update again",
            )
        if tensors[name].shape != changing[name]:
            raise GateError(
                f"{where}: tensor {name} has shape {list(tensors[name].shape)}, expected"
                f" {list(changing[name])}"
            )
