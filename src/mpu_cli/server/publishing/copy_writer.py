"""Write the copies θ_k = T_k(θ + ξ + α_k ε_k), one block of rows into all copies at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import torch

from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, converted, to_bytes
from mpu_cli.checkpoint.hashed_reader import HashedReader, hashed_reader
from mpu_cli.checkpoint.header import STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.checkpoint.writer import CheckpointWriter, with_dtype
from mpu_cli.errors import BadModelError
from mpu_cli.server.denoising import weights
from mpu_cli.server.publishing.copy_set import CopySet, Progress
from mpu_cli.server.publishing.noise import TensorNoise
from mpu_cli.server.publishing.noise_statistics import NoiseStatistics
from mpu_cli.server.transforms.blockwise import BLOCK, BlockwiseTransform, row_blocks
from mpu_cli.server.transforms.reparameterization import Reparameterization


@dataclass(frozen=True, slots=True)
class WrittenCopies:
    """The copies on disk."""

    folders: tuple[Path, ...]
    files: tuple[Mapping[str, tuple[str, int]], ...]
    """Digest and size of every file, by copy."""
    noise: Mapping[str, float]
    """See `NoiseStatistics.report`."""
    source: str
    """Digest of what is sent of the model, as it was read to make the copies."""


def write_copies(
    copies: CopySet,
    folders: Sequence[Path],
    model_dtype: str = "F32",
    progress: Progress = lambda *_: None,
) -> WrittenCopies:
    """Write copy k into `folders[k]`.

    Peak memory is about (2m + 4) float32 blocks of `blockwise.BLOCK` entries for any model.

    Args:
        copies: what to write.
        folders: one existing directory for each copy.
        model_dtype: the narrowest dtype that holds the model's weights exactly, for the statistics.
        progress: called after each tensor with the number of entries written.
    """
    every = (*copies.model.tensors.values(), *copies.stand_ins.values())
    tensors = with_dtype(every, STORED_NAMES[copies.dtype])
    writers = [
        CheckpointWriter(folder, tensors, max_shard_bytes=copies.shard_bytes) for folder in folders
    ]
    coefficients = copies.draw.coefficients
    statistics = NoiseStatistics(
        weights(copies.draw.denoising, coefficients), coefficients, model_dtype
    )
    done = 0
    try:
        with hashed_reader() as reader:
            copy_writer = _CopyWriter(copies, writers, statistics, reader)
            for info in writers[0].order:
                if info.name in copies.stand_ins:
                    copy_writer.write_constant(info)
                    continue
                copy_writer.write(copies.model.tensors[info.name], info.dtype)
                done += info.elements
                progress("write", done, copies.model.elements)
            source = reader.digest(copies.model)
        written = [writer.close() for writer in writers]
    finally:
        for writer in writers:
            writer.abort()
    files = tuple(
        {**copy_side_files(copies.model, folder, copies.dtype), **result.files}
        for folder, result in zip(folders, written, strict=True)
    )
    return WrittenCopies(tuple(folders), files, statistics.report(), source)


class _CopyWriter:
    """Memory and writers of all copies, used for one tensor after the other."""

    def __init__(
        self,
        copies: CopySet,
        writers: list[CheckpointWriter],
        statistics: NoiseStatistics,
        reader: HashedReader,
    ) -> None:
        self._reader = reader
        self._copies, self._writers, self._statistics = copies, writers, statistics
        self._group_of = {
            name: group
            for group, names in copies.layout.groups(copies.scope).items()
            for name in names
        }
        self._layer_of = copies.layout.layer_of()
        self._transforms = copies.model_transforms()
        self._dtype = TORCH_DTYPES[STORED_NAMES[copies.dtype]]
        self._block_entries = min(BLOCK, 5 * BLOCK // len(writers))
        self._wide = Scratch()
        self._noised, self._rounded = ([Scratch() for _ in writers] for _ in range(2))
        # Each writer holds one buffer, and two more let the next block be prepared.
        self._pool = Pool(len(writers) + 2)

    def write(self, info: TensorInfo, stored: str) -> None:
        """Write T_k of one tensor of θ into every copy; `stored` is the dtype on disk."""
        drawn = self._drawn(info.name)
        targets = [step.target(info.name) for step in drawn] or [info.name] * len(self._writers)
        transforms = [
            BlockwiseTransform(step.maps.get(info.name, ()), info.shape) for step in drawn
        ] or [BlockwiseTransform((), info.shape)] * len(self._writers)
        noise = self._copies.draw.of(self._group_of.get(info.name, ""), info.name)
        if noise is None and info.dtype == stored and not any(step.maps for step in transforms):
            self._copy_bytes(info, targets)
            return
        for start, stop in row_blocks(info.shape, transforms, self._block_entries):
            self._write_rows(info, noise, list(zip(targets, transforms, strict=True)), start, stop)

    def write_constant(self, info: TensorInfo) -> None:
        """Write a stand-in, as stored: ones in the weight of a norm, zeros elsewhere."""
        is_norm = len(info.shape) == 1 and not info.name.endswith("bias")
        values = torch.full(info.shape, float(is_norm), dtype=TORCH_DTYPES[info.dtype])
        for writer in self._writers:
            writer.write_at(info.name, 0, to_bytes(values.view(-1)))

    def _copy_bytes(self, info: TensorInfo, targets: Sequence[str]) -> None:
        offset = 0
        for block in self._reader.blocks(info):  # adding zero would turn −0.0 into 0.0
            for writer, target in zip(self._writers, targets, strict=True):
                writer.write_at(target, offset, block)
            offset += len(block)

    def _write_rows(
        self,
        info: TensorInfo,
        noise: TensorNoise | None,
        steps: Sequence[tuple[str, BlockwiseTransform]],
        start: int,
        stop: int,
    ) -> None:
        columns = steps[0][1].columns
        original = self._reader.read(info, start * columns, stop * columns)
        if noise is None:
            centre, values = original, [original] * len(self._writers)
        else:
            original = converted(original, torch.float32, self._wide)
            values = [scratch.tensor(torch.float32, len(original)) for scratch in self._noised]
            centre = noise.add_to(original, start * columns, values)
        published_rows = []
        for number, (writer, (target, transform)) in enumerate(
            zip(self._writers, steps, strict=True)
        ):
            # A map that is not exact would be computed, and rounded, in the model's narrow dtype.
            dtype = self._dtype if transform.exact else torch.float32
            rows = converted(values[number], dtype, self._rounded[number])
            buffer = self._pool.take(len(rows) * self._dtype.itemsize)
            published = torch.frombuffer(buffer, dtype=self._dtype, count=len(rows))
            published = published.view(-1, columns)
            if transform.exact:
                transform.apply(rows.view(-1, columns), start, published)
            else:
                published.copy_(transform.apply(rows.view(-1, columns), start))
            self._require_finite(info.name, published)
            if noise is not None:
                # Signed permutations commute with rounding; a rotation is undone to be measured.
                if not transform.exact:
                    wide = published.to(torch.float32, copy=True)
                    rows = transform.invert(wide, start).view(-1)
                published_rows.append(rows)
            writer.write_rows(
                target,
                transform.places(start, stop),
                to_bytes(published),
                partial(self._pool.put, buffer),
            )
        if noise is not None:
            self._statistics.add(original, centre, published_rows, noise.sigma)

    def _require_finite(self, name: str, published: torch.Tensor) -> None:
        # The sum is one cheap pass; only if it is not finite can an entry not be finite.
        if not isfinite(float(published.sum(dtype=torch.float32))) and not bool(
            torch.isfinite(published).all()
        ):
            raise BadModelError(
                f"{self._copies.model.path}: tensor {name} holds numbers that"
                f" {self._copies.dtype} cannot hold",
                "use --dtype float32",
            )

    def _drawn(self, name: str) -> list[Reparameterization]:
        """T_k of the tensor's layer, by copy; none outside the layers."""
        layer = self._layer_of.get(name)
        return [] if layer is None else [by_layer[layer] for by_layer in self._transforms]
