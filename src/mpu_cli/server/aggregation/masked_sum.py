"""The sum of the masked updates of a whole group, in which the masks cancel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mpu_cli.bundle.mask import FRACTION_BITS
from mpu_cli.checkpoint.change import PIECE
from mpu_cli.checkpoint.dtypes import Scratch, read_rows
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.errors import GateError
from mpu_cli.server.transforms.blockwise import matrix

_FEWEST, _FAR, _MANY = 64, 1 << (FRACTION_BITS + 1), 0.25
"""Masks that do not cancel leave uniform entries, of which three quarters exceed 2 weight units. No
model survives a change of which a quarter does; below 64 entries chance decides too much."""


@dataclass(frozen=True, slots=True)
class MaskedSum:
    """The summed change of one on-disk tensor."""

    where: Path
    """The first member's copy, for messages."""
    parts: tuple[TensorInfo, ...]
    """The tensor in every member's update."""

    def rows(self, places: npt.NDArray[np.int64], total: Scratch, part: Scratch) -> torch.Tensor:
        """Rows, in ascending order, of the sum viewed as a matrix: (rows, columns), float32.

        The integers are added modulo 2³², exactly, in any order of the members. float32 holds the
        sum exactly below 1/16, and rounds larger entries as it rounds every change.

        Args:
            places: the rows.
            total: memory for the result, valid until its next use.
            part: memory for one member's rows.

        Raises:
            GateError: the masks do not cancel.
        """
        columns = matrix(self.parts[0].shape)[1]
        # The four bytes of each entry are read as they are, not as a float32.
        stored = [replace(info, dtype="F32") for info in self.parts]
        result = read_rows(stored[0], places, columns, total)
        words = result.numpy().view(np.uint32).reshape(-1)
        for info in stored[1:]:
            words += read_rows(info, places, columns, part).numpy().view(np.uint32).reshape(-1)
        far, flat = 0, result.view(-1)
        for start in range(0, len(words), PIECE):
            steps = torch.from_numpy(words[start : start + PIECE].view(np.int32).copy())
            far += int(torch.count_nonzero((steps > _FAR) | (steps < -_FAR)))
            flat[start : start + PIECE] = steps.to(torch.float32).mul_(2.0**-FRACTION_BITS)
        if len(words) >= _FEWEST and far > _MANY * len(words):
            raise GateError(
                f"{self.where}: tensor {self.parts[0].name}: the masks of the"
                f" {len(self.parts)} members do not cancel",
                "a member masked with another key than the group's, or two copies were swapped: all"
                " members mask again and send the result unchanged",
            )
        return result


def masked_sums(where: Path, members: Sequence[Mapping[str, TensorInfo]]) -> dict[str, MaskedSum]:
    """The summed changes of one copy; every member has the same tensors."""
    return {
        name: MaskedSum(where, tuple(tensors[name] for tensors in members)) for name in members[0]
    }
