"""Write the copies θ_k = T_k(θ + ξ + α_k ε_k).

One block of rows at a time, into all copies at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from pathlib import Path

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.checkpoint.buffers import Pool
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, converted, read_span, to_bytes
from mpu_cli.checkpoint.header import STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, blocks
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.checkpoint.writer import CheckpointWriter, Written, with_dtype
from mpu_cli.errors import BadModelError
from mpu_cli.server.publishing.noise import NoiseDraw, TensorNoise
from mpu_cli.server.publishing.noise_statistics import RealisedNoise
from mpu_cli.server.transforms.blockwise import BLOCK, BlockwiseTransform, row_blocks
from mpu_cli.server.transforms.draw import Reparameterization


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything that decides the copies' bytes."""

    model: Checkpoint
    layout: ModelLayout
    groups: Mapping[str, tuple[str, ...]]
    draw: NoiseDraw
    reparameterizations: Sequence[Mapping[int, Reparameterization]]
    """By position, then by layer."""
    dtype: str
    shard_bytes: int


def write_copies(
    publication: Publication,
    directories: Sequence[Path],
    realised: RealisedNoise,
    on_tensor: Callable[[int], None] = lambda _: None,
) -> list[dict[str, tuple[str, int]]]:
    """Write copy number i of the draw into `directories[i]`.

    Return each copy's files with digests and sizes.

    Peak memory is about (2m + 4) float32 blocks of `moves.BLOCK` entries, whatever the model's
    size. `on_tensor` is told the number of entries done.
    """
    tensors = with_dtype(publication.model.tensors.values(), STORED_NAMES[publication.dtype])
    writers = [
        CheckpointWriter(path, tensors, max_shard_bytes=publication.shard_bytes)
        for path in directories
    ]
    try:
        job = _TensorToWrite(publication, writers, realised)
        for info in writers[0].order:
            job.tensor(publication.model.tensors[info.name], info.dtype)
            on_tensor(info.elements)
        results: list[Written] = [writer.close() for writer in writers]
    finally:
        for writer in writers:
            writer.abort()
    return [
        {**copy_side_files(publication.model, path, publication.dtype), **written.files}
        for path, written in zip(directories, results, strict=True)
    ]


class _TensorToWrite:
    def __init__(
        self, publication: Publication, writers: list[CheckpointWriter], realised: RealisedNoise
    ) -> None:
        self.publication, self.writers, self.realised = publication, writers, realised
        self.group_of = {
            name: group for group, names in publication.groups.items() for name in names
        }
        self.layer_of = publication.layout.layer_of()
        self.target = TORCH_DTYPES[STORED_NAMES[publication.dtype]]
        self.read, self.wide = Scratch(), Scratch()
        self.copies, self.rounded = [Scratch() for _ in writers], [Scratch() for _ in writers]
        # One in each writer's hands, and two so that the next block can be prepared.
        self.pool = Pool(len(writers) + 2)

    def tensor(self, info: TensorInfo, stored: str) -> None:
        """Write T_k of one tensor of θ into every copy."""
        steps = self.steps(info.name)
        places = [step.target(info.name) for step in steps] or [info.name] * len(self.writers)
        moves = [BlockwiseTransform(step.maps.get(info.name, ()), info.shape) for step in steps]
        noise = self.publication.draw.of(self.group_of.get(info.name, ""), info.name)
        if noise is None and info.dtype == stored and not any(move.maps for move in moves):
            offset = 0
            for block in blocks(info):  # adding zero would turn −0.0 into 0.0
                for writer, place in zip(self.writers, places, strict=True):
                    writer.write_at(place, offset, block)
                offset += len(block)
            return
        moves = moves or [BlockwiseTransform((), info.shape)] * len(self.writers)
        for start, stop in row_blocks(info.shape, moves, self.entries):
            self.rows(info, noise, moves, places, start, stop)

    def rows(
        self,
        info: TensorInfo,
        noise: TensorNoise | None,
        moves: Sequence[BlockwiseTransform],
        places: Sequence[str],
        start: int,
        stop: int,
    ) -> None:
        """Write rows start..stop of one tensor of θ into every copy."""
        columns = moves[0].columns
        original = read_span(info, start * columns, stop * columns, self.read)
        if noise is None:
            centre, copies = original, [original] * len(self.writers)
        else:
            original = converted(original, torch.float32, self.wide)
            copies = [scratch.tensor(torch.float32, len(original)) for scratch in self.copies]
            centre = noise.add_to(original, start * columns, copies)
        seen = []
        for number, (writer, place, move) in enumerate(
            zip(self.writers, places, moves, strict=True)
        ):
            # A map that is not exact would otherwise be computed, and rounded, in the model's own
            # narrow dtype.
            rows = converted(
                copies[number], self.target if move.exact else torch.float32, self.rounded[number]
            )
            buffer = self.pool.take(len(rows) * self.target.itemsize)
            published = torch.frombuffer(buffer, dtype=self.target, count=len(rows)).view(
                -1, columns
            )
            if move.exact:
                move.apply(rows.view(-1, columns), start, published)
            else:
                published.copy_(move.apply(rows.view(-1, columns), start))
            self.require_finite(info.name, published)
            if noise is not None:
                # Signed permutations commute with rounding; a rotation is measured through its
                # inverse.
                seen.append(
                    rows
                    if move.exact
                    else move.invert(published.to(torch.float32, copy=True), start).view(-1)
                )
            writer.write_rows(
                place, move.places(start, stop), to_bytes(published), partial(self.pool.put, buffer)
            )
        if noise is not None:
            self.realised.add(original, centre, seen, noise.sigma)

    @property
    def entries(self) -> int:
        """Entries of a block: fewer where many copies are in hand at once."""
        return min(BLOCK, 5 * BLOCK // len(self.writers))

    def require_finite(self, name: str, published: torch.Tensor) -> None:
        # The sum is one cheap pass; only if it is not a number can an entry be none.
        if not isfinite(float(published.sum(dtype=torch.float32))) and not bool(
            torch.isfinite(published).all()
        ):
            raise BadModelError(
                f"{self.publication.model.path}: tensor {name} holds numbers that"
                f" {self.publication.dtype} cannot",
                "use --dtype float32",
            )

    def steps(self, name: str) -> list[Reparameterization]:
        """T_k of the tensor's layer, by copy; none outside the layers."""
        layer = self.layer_of.get(name)
        if layer is None:
            return []
        return [by_layer[layer] for by_layer in self.publication.reparameterizations]
