"""Write a plain model that was trained: the source's tensors, changed by what training moved."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.adapter import open_adapter
from mpu_cli.checkpoint.change import Changes, Spans, write_changed
from mpu_cli.checkpoint.dtypes import read_span, spans
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.client.adapters import is_adapter, row_spans


def write_trained(
    source: Checkpoint, after: Path, directory: Path, dtype: str, shard_bytes: int
) -> None:
    """Write the model that training has left in `after`, whole or as an adapter.

    Args:
        source: the model that training began from.
        after: what `train_copy` wrote.
        directory: the new model's; empty.
        dtype: of the new model, or auto.
        shard_bytes: of its files.
    """
    changes = _of_adapter(after) if is_adapter(after) else _of_model(open_checkpoint(after))
    write_changed(source, changes, directory, dtype, shard_bytes)


def _of_model(trained: Checkpoint) -> Changes:
    def changes(info: TensorInfo) -> Spans | None:
        after = trained.tensors.get(info.name)
        # transformers does not save buffers that some checkpoints hold: they did not change.
        return None if after is None else _differences(info, after)

    return changes


def _differences(before: TensorInfo, after: TensorInfo) -> Spans:
    for start, stop in spans(before.elements):
        trained, stored = read_span(after, start, stop), read_span(before, start, stop)
        # Training began from the stored weights, rounded to the dtype that it trained in.
        yield start, stop, trained.double() - stored.to(trained.dtype).double()


def _of_adapter(directory: Path) -> Changes:
    adapter = open_adapter(directory)

    def changes(info: TensorInfo) -> Spans | None:
        change = adapter.get(info.name)
        if change is None:
            return None
        return ((start, stop, rows.double()) for start, stop, rows in row_spans(change))

    return changes
