"""The delta of one copy: the difference of two saved directories, by on-disk name, in blocks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path

import torch

from mpu_cli.bundle.tensors import DELTA_STEM, is_frozen
from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, converted, read_span, spans, to_bytes
from mpu_cli.checkpoint.header import STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, is_head
from mpu_cli.checkpoint.writer import CheckpointWriter, Files
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.errors import BadModelError, CheckFailedError


@dataclass(frozen=True, slots=True)
class DeltaFormat:
    """How changes are stored."""

    dtype: str
    """float32 or bfloat16"""
    shard_bytes: int
    """The largest size of a file."""

    def writer(self, directory: Path, infos: Sequence[TensorInfo]) -> CheckpointWriter:
        """A writer of the delta's files, in which the tensors get the stored dtype."""
        stored = [replace(info, dtype=STORED_NAMES[self.dtype]) for info in infos]
        return CheckpointWriter(
            directory, stored, max_shard_bytes=self.shard_bytes, stem=DELTA_STEM
        )


def write_delta(
    opened: OpenHandoff,
    published: Checkpoint,
    trained: Checkpoint,
    directory: Path,
    delta_format: DeltaFormat,
) -> Files:
    """Write `after − published` of every tensor that changed, and return the files.

    If the trainer kept its weights in a narrower dtype than the published copy, it started from the
    copy rounded to that dtype. The difference is taken against the rounded copy, or else every
    entry would carry the rounding.

    Raises:
        BadModelError: the two directories are not the same model (a tensor is missing, added, or of
            another shape).
        CheckFailedError: a frozen tensor changed, or a change is not a finite number.
    """
    pair = _Pair()
    _check_same_model(published, trained, opened.droppable, pair)
    saved = [info for info in published.tensors.values() if info.name in trained.tensors]
    changed = [info for info in saved if pair.differs(info, trained.tensors[info.name])]
    for info in changed:
        if is_frozen(info.name, opened.frozen):
            raise CheckFailedError(
                f"{trained.path}: tensor {info.name} changed, but it is frozen",
                "train with this tensor frozen: rows of it that move tell the server which tokens"
                " the forget set holds",
            )
    writer = delta_format.writer(directory, changed)
    pool = Pool(3)
    try:
        for target in writer.order:
            stored = TORCH_DTYPES[target.dtype]
            for delta in pair.changes(published.tensors[target.name], trained.tensors[target.name]):
                if not isfinite(float(delta.sum())) and not bool(torch.isfinite(delta).all()):
                    raise CheckFailedError(
                        f"{trained.path}: tensor {target.name} holds NaN or infinity",
                        "train again with a lower learning rate",
                    )
                buffer = pool.take(len(delta) * stored.itemsize)
                block = torch.frombuffer(buffer, dtype=stored, count=len(delta)).copy_(delta)
                writer.write(to_bytes(block), partial(pool.put, buffer))
        return writer.close().files
    finally:
        writer.abort()


def is_unchanged(published: TensorInfo, trained: TensorInfo) -> bool:
    """Whether a tensor equals the published one in the trainer's dtype."""
    return published.shape == trained.shape and not _Pair().differs(published, trained)


class _Pair:
    """Compares the same tensor of two models in blocks, in memory that is reused."""

    def __init__(self) -> None:
        self._before, self._after, self._narrow, self._wide, self._change = (
            Scratch() for _ in range(5)
        )

    def _blocks(
        self, published: TensorInfo, trained: TensorInfo
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Blocks before (in the dtype of after) and after."""
        for start, stop in spans(published.elements):
            after = read_span(trained, start, stop, self._after)
            yield (
                converted(
                    read_span(published, start, stop, self._before), after.dtype, self._narrow
                ),
                after,
            )

    def differs(self, published: TensorInfo, trained: TensorInfo) -> bool:
        """Whether any entry changed."""
        return any(
            not torch.equal(before, after) for before, after in self._blocks(published, trained)
        )

    def changes(self, published: TensorInfo, trained: TensorInfo) -> Iterator[torch.Tensor]:
        """The difference in float32, in consecutive blocks."""
        for before, after in self._blocks(published, trained):
            change = self._change.tensor(torch.float32, len(after)).copy_(after)
            yield change.sub_(converted(before, torch.float32, self._wide))


def _check_same_model(
    published: Checkpoint, trained: Checkpoint, droppable: Collection[str], pair: _Pair
) -> None:
    for name, info in published.tensors.items():
        if name not in trained.tensors:
            if name in droppable:
                continue
            raise BadModelError(
                f"{trained.path}: tensor {name} is missing", "save the whole model after training"
            )
        if trained.tensors[name].shape != info.shape:
            raise BadModelError(
                f"{trained.path}: tensor {name} has shape {list(trained.tensors[name].shape)}, the"
                f" published copy {list(info.shape)}",
                "train the published copy itself, without resizing it",
            )
    for name in sorted(set(trained.tensors) - set(published.tensors)):
        if not _is_redundant_head(name, published, trained, pair):
            raise BadModelError(
                f"{trained.path}: tensor {name} is not in the published copy",
                "save the model without it",
            )


def _is_redundant_head(name: str, published: Checkpoint, trained: Checkpoint, pair: _Pair) -> bool:
    """Whether it is a tied head, equal to the embedding, which some programs write as well."""
    return (
        is_head(name)
        and bool(published.config.get("tie_word_embeddings"))
        and any(
            not pair.differs(info, trained.tensors[name])
            for other, info in trained.tensors.items()
            if other != name and info.shape == trained.tensors[name].shape and "embed" in other
        )
    )
