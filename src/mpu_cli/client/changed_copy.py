"""A published copy with its own update applied, as a model directory.

The client may measure it before it sends the update. The server's model will come from all copies
together.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mpu_cli.bundle.adapter import LowRankChange
from mpu_cli.bundle.payload import ChangedTensor, DenseChange, check_changes, open_changes
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.change import Spans, write_changed
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.dtypes import read_span, spans
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.client.adapters import row_spans
from mpu_cli.client.own_update import open_own_update
from mpu_cli.errors import UsageError

_SHARD_BYTES = 50_000_000_000


def write_changed_copy(
    handoff: Path,
    update: Path,
    number: int,
    directory: Path,
    progress: Progress | None = None,
    *,
    dtype: str = "auto",
) -> None:
    """Write copy `number` of `handoff`, changed by `update`, into `directory`, which is empty.

    `progress` gets (what, bytes done, bytes in total) while the two are checked. `dtype` is that of
    the result (see `write_changed`).

    Raises:
        UsageError: there is no such copy, or the update lacks it.
        BadBundleError: a malformed handoff or update, or one that was altered meanwhile.
        GateError: the update answers another handoff, or does not fit this one.
        OutputError: the disk is full.
    """
    opened, manifest = open_own_update(update, handoff, progress)
    name, count = f"copy-{number}", len(opened.copies)
    if name not in opened.copies:
        raise UsageError(
            f"--copy {number}: the handoff has {count} copies", f"give a number from 1 to {count}"
        )
    published, where = opened.copies[name], update / name
    payloads = {copy.name: copy.payload for copy in manifest.copies}
    if name not in payloads:
        raise UsageError(
            f"--copy {number}: {update} holds {', '.join(payloads)}", "give a copy that it holds"
        )
    changes = open_changes(where, payloads[name])
    check_changes(where, changes, shapes(published.tensors), opened.frozen, opened.matrices)
    with disk_errors(directory):
        write_changed(published, partial(change_spans, changes), directory, dtype, _SHARD_BYTES)
    for folder in (published.path, where):
        opened.files.require_unchanged(folder)


def change_spans(changes: Mapping[str, ChangedTensor], info: TensorInfo) -> Spans | None:
    """The change of one tensor in consecutive pieces, flat float64; None if it did not change."""
    change = changes.get(info.name)
    if isinstance(change, DenseChange):
        return (
            (start, stop, read_span(change.info, start, stop).double())
            for start, stop in spans(info.elements)
        )
    if isinstance(change, LowRankChange):
        return ((start, stop, rows.double()) for start, stop, rows in row_spans(change))
    return None
