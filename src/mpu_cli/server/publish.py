"""Write the copies θ_k = T_k(θ + ξ + α_k ε_k): one tensor at a time, into all copies at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_span, read_tensor, spans, to_bytes
from mpu_cli.checkpoint.header import STORED_NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, blocks
from mpu_cli.checkpoint.side_files import copy_side_files
from mpu_cli.checkpoint.writer import CheckpointWriter, Written, with_dtype
from mpu_cli.errors import BadModelError
from mpu_cli.server.noise import Draw
from mpu_cli.server.realised import RealisedNoise
from mpu_cli.server.transforms import Reparameterization


@dataclass(frozen=True, slots=True)
class Publication:
    """Everything that decides the copies' bytes."""

    model: Checkpoint
    layout: ModelLayout
    groups: Mapping[str, tuple[str, ...]]
    draw: Draw
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
    """Write copy number i of the draw into `directories[i]`; return each copy's files with digests and sizes.

    Peak memory is about (2m + 2) float32 copies of the largest tensor that T moves, or of a span of one that it does not.
    `on_tensor` is told the number of entries done.
    """
    tensors = with_dtype(publication.model.tensors.values(), STORED_NAMES[publication.dtype])
    writers = [CheckpointWriter(path, tensors, max_shard_bytes=publication.shard_bytes) for path in directories]
    try:
        job = _Job(publication, writers, realised)
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


class _Job:
    def __init__(self, publication: Publication, writers: list[CheckpointWriter], realised: RealisedNoise) -> None:
        self.publication, self.writers, self.realised = publication, writers, realised
        self.group_of = {name: group for group, names in publication.groups.items() for name in names}
        self.layer_of = {name: layer.index for layer in publication.layout.layers for name in layer.noised}
        self.target = TORCH_DTYPES[STORED_NAMES[publication.dtype]]

    def tensor(self, info: TensorInfo, stored: str) -> None:
        steps = self.steps(info.name)
        if any(step.maps.get(info.name) for step in steps):
            self.moved(info, steps)
        elif self.group_of.get(info.name) is None and info.dtype == stored:
            for block in blocks(info):  # adding zero would turn −0.0 into 0.0
                self.emit([block] * len(self.writers))
        else:
            for start, stop in spans(info.elements):
                original = read_span(info, start, stop)
                copies, centre = self.perturbed(info.name, original, start, stop)
                copies = [self.stored(info.name, copy) for copy in copies]
                self.measure(info.name, original, centre, copies)
                self.emit([to_bytes(copy) for copy in copies])

    def moved(self, info: TensorInfo, steps: list[Reparameterization]) -> None:
        original = read_tensor(info)
        copies, centre = self.perturbed(info.name, original, 0, info.elements)
        seen = []
        for writer, step, copy in zip(self.writers, steps, copies, strict=True):
            # A map that is not exact would otherwise be computed, and rounded, in the model's own narrow dtype.
            published = self.stored(info.name, step.apply(info.name, copy if step.exact else copy.float()))
            writer.write(to_bytes(published))
            # Signed permutations commute with rounding; a rotation is measured through its inverse.
            seen.append(copy.to(self.target) if step.exact else step.invert(info.name, published.float()))
        self.measure(info.name, original, centre, seen)

    def stored(self, name: str, copy: torch.Tensor) -> torch.Tensor:
        published = copy.to(self.target)
        if not bool(torch.isfinite(published).all()):
            raise BadModelError(
                f"{self.publication.model.path}: tensor {name} holds numbers that {self.publication.dtype} cannot", "use --dtype float32"
            )
        return published

    def perturbed(
        self, name: str, original: torch.Tensor, start: int, stop: int
    ) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """θ + ξ + α_k ε_k of every copy, not yet rounded, and θ + ξ; θ itself where there is neither."""
        draw, group = self.publication.draw, self.group_of.get(name, "")
        offset = draw.offset(group, name, start, stop)
        noise = draw.perturbations(group, name, start, stop)
        if offset is None and noise is None:
            return [original] * len(self.writers), None
        centre = original.float() if offset is None else original.float() + offset.view(original.shape)
        if noise is None:
            return [centre] * len(self.writers), centre
        return [part.view(original.shape).add_(centre) for part in noise], centre

    def measure(
        self, name: str, original: torch.Tensor, centre: torch.Tensor | None, copies: Sequence[torch.Tensor]
    ) -> None:
        if centre is not None:
            sigma = self.publication.draw.sigma.get(self.group_of[name], 0.0)
            self.realised.add(original.float(), centre, [copy.float() for copy in copies], sigma)

    def steps(self, name: str) -> list[Reparameterization]:
        layer = self.layer_of.get(name)
        if layer is None:
            return []
        return [by_layer[layer] for by_layer in self.publication.reparameterizations]

    def emit(self, parts: Sequence[bytes | memoryview]) -> None:
        for writer, part in zip(self.writers, parts, strict=True):
            writer.write(part)

