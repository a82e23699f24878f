"""The changed tensors of one copy of an update, dense or low-rank. Never imports torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.architectures.projections import Projections
from mpu_cli.bundle.adapter import ADAPTER_CONFIG, LowRankChange, open_adapter
from mpu_cli.bundle.finite import FileNumbers, not_finite
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.mask import MASKED
from mpu_cli.bundle.masked import open_masked
from mpu_cli.bundle.tensors import check_delta, open_delta, shapes
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.errors import GateError


@dataclass(frozen=True, slots=True)
class DenseChange:
    """A change stored as one entry per weight."""

    info: TensorInfo

    @property
    def dtype(self) -> str:
        """The dtype (safetensors' name) of the stored change."""
        return self.info.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the changed tensor."""
        return self.info.shape

    def is_finite(self) -> bool:
        """Whether every entry is finite."""
        return not_finite({self.info.name: self.info}) is None


ChangedTensor = DenseChange | LowRankChange
"""The change of one on-disk tensor of a published copy."""
Changes = Mapping[str, ChangedTensor]
"""The changes by on-disk tensor; an absent tensor did not change."""


def payload_of(directory: Path) -> str:
    """`lora` or `delta`: the payload in the directory of a copy without a manifest."""
    return "lora" if (directory / ADAPTER_CONFIG).exists() else "delta"


def open_changes(directory: Path, payload: str) -> Changes:
    """The changes of one copy of an update.

    Raises:
        BadBundleError: malformed files.
        GateError: the update is masked.
    """
    if payload == MASKED:
        raise GateError(
            f"{directory.parent}: is masked: only the sum of all members' updates can be read",
            "give the update from which mpu mask made it",
        )
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
    """Check that the changes fit the published model, and that low-rank ones are finite.

    `check_numbers` checks the dense ones.

    Raises:
        GateError: an unknown tensor, another shape or dtype, a change of a frozen tensor, an
            adapter of a tensor that is not a projection or is stored transposed, NaN.
    """
    check_delta(where, changes, expected, frozen)
    for name, change in changes.items():
        if not isinstance(change, LowRankChange):
            continue
        if name not in matrices:
            raise GateError(
                f"{where}: holds an adapter of {name}, which is not an attention or feed-forward"
                " projection",
                "merge the adapter into the model, then make a full update with mpu diff",
            )
        if change.transposed != (matrices[name].output_axis == 1):
            raise GateError(
                f"{where}: fan_in_fan_out is {str(change.transposed).lower()}, but {name} is stored"
                " the other way round"
            )
    check_numbers(
        where,
        {name: change for name, change in changes.items() if isinstance(change, LowRankChange)},
    )


def check_numbers(where: Path, changes: Changes) -> None:
    """Check that every entry is finite.

    Raises:
        GateError: names the first tensor with NaN or infinity.
    """
    for name, change in sorted(changes.items()):
        if not change.is_finite():
            raise _not_finite(where, name)


def _not_finite(where: Path, name: str) -> GateError:
    return GateError(
        f"{where}: tensor {name} holds NaN or infinity", "lower the learning rate and train again"
    )


def check_update_tensors(
    path: Path, manifest: UpdateManifest, numbers: FileNumbers | None = None
) -> None:
    """Check an update's tensors without the handoff: headers, dtypes, finite values.

    `numbers` holds the notes of `read_bundle`; without it the values are read again.
    """
    for copy in manifest.copies:
        where = path / copy.name
        if copy.payload == MASKED:
            open_masked(where)
            continue
        changes = open_changes(where, copy.payload)
        check_delta(where, changes, shapes(changes), ())
        if numbers is None or copy.payload != "delta":
            check_numbers(where, changes)
        elif (bad := numbers.not_finite(where / name for name in copy.files)) is not None:
            raise _not_finite(where, bad)
