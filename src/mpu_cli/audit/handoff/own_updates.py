"""The updates that a client made itself, which it knows besides the copies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.bundle.payload import Changes, DenseChange, check_numbers, open_changes
from mpu_cli.bundle.read import read_update
from mpu_cli.bundle.tensors import check_delta, shapes
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.errors import GateError

if TYPE_CHECKING:
    import torch


def open_own_updates(
    paths: Sequence[Path], holding: Holding, progress: Progress | None = None
) -> dict[int, Changes]:
    """Verify updates, and open the change of every copy that they answer, by its number.

    Raises:
        BadBundleError: an update is malformed or altered.
        GateError: it answers no handoff that is held, or does not fit its copies.
    """
    found: dict[int, Changes] = {}
    for path in paths:
        manifest = read_update(path, progress)
        held = {
            copy.name: number
            for number, copy in enumerate(holding.copies)
            if holding.manifests[copy.handoff].digest == manifest.handoff_digest
        }
        if not held:
            raise GateError(
                f"--update {path}: it answers handoff {manifest.handoff_id}, which is not given",
                "give that handoff too, or leave this update out",
            )
        for answered in manifest.copies:
            where = path / answered.name
            if answered.name not in held:
                raise GateError(f"{where}: the handoff has no such copy", "give another update")
            changes = open_changes(where, answered.payload)
            copy = holding.copies[held[answered.name]].checkpoint
            check_delta(where, changes, shapes(copy.tensors), ())
            check_numbers(where, changes)
            found[held[answered.name]] = changes
    return found


def layer_of_changes(holding: Holding, changes: Changes, index: int) -> Mapping[str, torch.Tensor]:
    """The changes of one layer's noised tensors, float32; zeros where there is none."""
    import torch

    from mpu_cli.checkpoint.dtypes import read_tensor

    published = holding.copies[0].checkpoint.tensors
    tensors = {}
    for name in holding.layout.layers[index].noised:
        change = changes.get(name)
        if change is None:
            tensors[name] = torch.zeros(published[name].shape)
        elif isinstance(change, DenseChange):
            tensors[name] = read_tensor(change.info).float()
        else:
            tensors[name] = change.rows(np.arange(change.shape[0])).float()
    return tensors
