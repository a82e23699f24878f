"""One copy of a handoff and its change by an update: all that the attacks need, and no secret.

The server sees the same copy and the same change. The reparameterization is orthogonal, so what is
measured in the copy's own frame is what the server measures in the model's.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, UpdateManifest, decode
from mpu_cli.bundle.payload import (
    ChangedTensor,
    Changes,
    DenseChange,
    check_numbers,
    open_changes,
)
from mpu_cli.bundle.read import manifest_bytes
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.dtypes import read_rows
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.client.changed_copy import write_changed_copy
from mpu_cli.errors import CheckFailedError


@dataclass(frozen=True, slots=True)
class Subject:
    """A published copy before and after the update."""

    handoff: HandoffManifest
    update: UpdateManifest
    update_path: Path
    name: str
    """`copy-1`, …"""
    published: Checkpoint
    changed: Path
    """A model directory: the copy plus its change."""
    changes: Changes
    layout: ModelLayout

    @property
    def payload(self) -> str:
        """`delta` or `lora`."""
        return next(copy.payload for copy in self.update.copies if copy.name == self.name)


@contextmanager
def open_subject(update: Path, handoff: Path, number: int) -> Iterator[Subject]:
    """Verify both, and write the changed copy into a directory that is removed afterwards.

    Raises:
        UsageError: there is no such copy.
        BadBundleError, GateError, OutputError: see `write_changed_copy` and `check_numbers`.
        CheckFailedError: the update changes nothing in this copy.
    """
    with tempfile.TemporaryDirectory(prefix="mpu-audit-") as folder:
        changed = Path(folder)
        # The server reads every bit of the change, so none is rounded to the copy's dtype.
        write_changed_copy(handoff, update, number, changed, dtype="float32")
        published, changing = (
            decode(manifest_bytes(path), path / MANIFEST) for path in (handoff, update)
        )
        assert isinstance(published, HandoffManifest)
        assert isinstance(changing, UpdateManifest)
        name = f"copy-{number}"
        payload = next(copy.payload for copy in changing.copies if copy.name == name)
        changes = open_changes(update / name, payload)
        if not changes:
            raise CheckFailedError(
                f"{update / name}: changes nothing, so there is nothing to learn from it",
                "give an update that unlearned something",
            )
        check_numbers(update / name, changes)
        copy = open_checkpoint(handoff / name)
        layout = read_layout(copy.config, shapes(copy.tensors), copy.path)
        yield Subject(published, changing, update, name, copy, changed, changes, layout)


def rows_in_blocks(
    tensor: ChangedTensor | TensorInfo, entries: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Consecutive rows of a change, or of a stored tensor, seen as a matrix: (rows, columns).

    Args:
        tensor: of any number of axes; the first one counts rows.
        entries: about how many of them are in memory at a time.
    """
    count, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    step = max(1, entries // columns)
    for start in range(0, count, step):
        places = np.arange(start, min(start + step, count))
        if isinstance(tensor, DenseChange | TensorInfo):
            info = tensor.info if isinstance(tensor, DenseChange) else tensor
            rows = read_rows(info, places, columns)
        else:
            rows = tensor.rows(places)
        yield slice(start, start + len(places)), rows.double()
