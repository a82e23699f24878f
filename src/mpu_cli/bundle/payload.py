"""What one copy of an update carries, whichever way: tensors that changed, dense or low-rank.

Never imports torch by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mpu_cli.architectures.projections import Projections
from mpu_cli.bundle.adapter import ADAPTER_CONFIG, LowRankChange, open_adapter
from mpu_cli.bundle.finite import FileNumbers, not_finite
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.tensors import check_delta, open_delta, shapes
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.errors import GateError

if TYPE_CHECKING:
    from mpu_cli.checkpoint.low_rank import Tensor


class ChangedTensor(Protocol):
    """The change of one on-disk tensor of a published copy."""

    @property
    def dtype(self) -> str:
        """In which it is stored, safetensors' name."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor that it changes."""
        ...

    def rows(self, places: npt.NDArray[np.int64], columns: int) -> Tensor:
        """Rows, given ascending, of the tensor seen as a matrix: (rows, columns), float32."""
        ...

    def is_finite(self) -> bool:
        """Whether every entry is a number."""
        ...


@dataclass(frozen=True, slots=True)
class DenseChange:
    """A change that is stored entry by entry."""

    info: TensorInfo

    @property
    def dtype(self) -> str:
        """See `ChangedTensor`."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """See `ChangedTensor`."""
        return self.info.shape

    def rows(self, places: npt.NDArray[np.int64], columns: int) -> Tensor:
        """See `ChangedTensor`."""
        from mpu_cli.checkpoint.low_rank import dense_rows

        return dense_rows(self.info, places, columns)

    def is_finite(self) -> bool:
        """See `ChangedTensor`."""
        return not_finite({self.info.name: self.info}) is None


Changes = Mapping[str, ChangedTensor]
"""By on-disk tensor; a tensor that is absent did not change."""


def payload_of(directory: Path) -> str:
    """`lora` or `delta`: what lies in the directory of one copy that is still to be listed."""
    return "lora" if (directory / ADAPTER_CONFIG).exists() else "delta"


def open_changes(directory: Path, payload: str) -> Changes:
    """The changes of one copy of an update.

    Raises:
        BadBundleError: malformed files.
    """
    if payload == "lora":
        return open_adapter(directory)
    return {name: DenseChange(info) for name, info in open_delta(directory).items()}


def check_changes(
    where: Path,
    changes: Changes,
    expected: Mapping[str, tuple[int, ...]],
    frozen: Collection[str],
    matrices: Projections,
) -> None:
    """The changes fit the model that was handed out.

    Whether dense ones are numbers is for `check_numbers`, or for their sum.

    Raises:
        GateError: a foreign tensor, another shape or dtype, a change in a frozen tensor, an adapter
            on what is not a projection or lies the other way round, NaN.
    """
    check_delta(where, changes, expected, frozen)
    for name, change in changes.items():
        if not isinstance(change, LowRankChange):
            continue
        if name not in matrices:
            raise GateError(
                f"{where}: there is an adapter on {name}, which is no attention or feed-forward"
                " projection",
                "hand in this change as a full update: mpu diff with the merged models",
            )
        if change.transposed != (matrices[name].output_axis == 1):
            raise GateError(
                f"{where}: fan_in_fan_out is {str(change.transposed).lower()}, {name} is stored the"
                " other way round"
            )
    check_numbers(
        where,
        {name: change for name, change in changes.items() if isinstance(change, LowRankChange)},
    )


def check_numbers(where: Path, changes: Changes) -> None:
    """Every entry is a number.

    Raises:
        GateError: a NaN or an infinity; the tensor is named.
    """
    for name, change in sorted(changes.items()):
        if not change.is_finite():
            raise _not_a_number(where, name)


def _not_a_number(where: Path, name: str) -> GateError:
    return GateError(
        f"{where}: tensor {name} holds NaN or infinity", "lower the learning rate, train again"
    )


def check_update_tensors(
    path: Path, manifest: UpdateManifest, numbers: FileNumbers | None = None
) -> None:
    """What can be checked of an update's tensors without the handoff.

    headers, dtypes, finite values.

    `numbers` is what was seen of the files' values when the update was read; without it they are
    read again.
    """
    for copy in manifest.copies:
        where = path / copy.name
        changes = open_changes(where, copy.payload)
        check_delta(where, changes, shapes(changes), ())
        if numbers is None or copy.payload != "delta":
            check_numbers(where, changes)
        elif (bad := numbers.not_finite(where / name for name in copy.files)) is not None:
            raise _not_a_number(where, bad)
