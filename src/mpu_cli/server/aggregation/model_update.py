"""The change of a model: η Σ_k w_k T_k⁻¹(Δ_k) over all draws, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, sqrt

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.bundle.payload import ChangedTensor, DenseChange, check_numbers
from mpu_cli.checkpoint.change import PIECE, Spans
from mpu_cli.checkpoint.dtypes import Scratch, converted, read_rows
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.server.aggregation.masked_sum import MaskedSum
from mpu_cli.server.aggregation.validate_updates import DrawUpdates
from mpu_cli.server.transforms.blockwise import BLOCK, BlockwiseTransform, row_blocks
from mpu_cli.server.transforms.draw import draw_model


class ModelUpdate:
    """Gives the change of every tensor, as `write_changed` asks for it."""

    def __init__(
        self,
        draws: Sequence[DrawAggregator],
        server_lr: float,
        progress: Callable[[int, int], None],
        entries: int,
    ) -> None:
        """Begin; `progress` is called with the entries that were asked for, and `entries`."""
        self._draws, self._server_lr = draws, server_lr
        self._progress, self._done, self._entries = progress, 0, entries

    def __call__(self, info: TensorInfo) -> Spans | None:
        """The change of one tensor of θ in pieces, float64; None if no copy changed it."""
        self._done += info.elements
        self._progress(self._done, self._entries)
        draws = [draw for draw in self._draws if draw.changes(info.name)]
        return self._pieces(info, draws) if draws else None

    def _pieces(self, info: TensorInfo, draws: Sequence[DrawAggregator]) -> Spans:
        transforms = [draw.transforms(info) for draw in draws]
        every = [transform for by_copy in transforms for transform in by_copy]
        columns = every[0].columns
        change, work = (torch.empty(PIECE, dtype=torch.float64) for _ in range(2))
        for start, stop in row_blocks(info.shape, every, min(BLOCK, 6 * BLOCK // len(every))):
            parts = [
                part
                for draw, by_copy in zip(draws, transforms, strict=True)
                for part in draw.undo(info, by_copy, start, stop)
            ]
            first, last = start * columns, stop * columns
            for a in range(0, last - first, PIECE):
                b = min(a + PIECE, last - first)
                total = change[: b - a].zero_()
                for weight, values in parts:
                    total.add_(work[: b - a].copy_(values[a:b]), alpha=weight * self._server_lr)
                yield first + a, first + b, total


class DrawAggregator:
    """One draw's changes: T undone, weighted, and their agreement."""

    def __init__(self, updates: DrawUpdates, layout: ModelLayout, master: bytes) -> None:
        self.updates = updates
        record, deltas = updates.record, updates.deltas
        self._layer_of = layout.layer_of()
        self._drawn = [
            draw_model(record.transforms, layout.layers, master, record.draw, delta.position)
            for delta in deltas
        ]
        # If write_changed reads the tensors a second time, every entry doubles and the cosines do
        # not change.
        self._gram = torch.zeros(len(deltas), len(deltas), dtype=torch.float64)
        self._read, self._part, self._wide = Scratch(), Scratch(), Scratch()
        self._undone = [Scratch() for _ in deltas]

    def changes(self, name: str) -> bool:
        """Whether any copy changed this tensor of θ."""
        copies = range(len(self.updates.deltas))
        return any(self._changed_tensor(number, name) is not None for number in copies)

    def transforms(self, info: TensorInfo) -> list[BlockwiseTransform]:
        """T_k of one tensor of θ, by delta."""
        layer = self._layer_of.get(info.name)
        maps = [
            drawn[layer].maps.get(info.name, ()) if layer is not None else ()
            for drawn in self._drawn
        ]
        return [BlockwiseTransform(steps, info.shape) for steps in maps]

    def undo(
        self, info: TensorInfo, transforms: Sequence[BlockwiseTransform], start: int, stop: int
    ) -> list[tuple[float, torch.Tensor]]:
        """(w_k, T_k⁻¹(Δ_k)) of rows start..stop of a tensor of θ, flattened float32.

        Copies that did not change the tensor are left out.

        Raises:
            GateError: an entry is not a number.
        """
        undone: dict[int, torch.Tensor] = {}
        for number, transform in enumerate(transforms):
            changed = self._changed_tensor(number, info.name)
            if changed is None:
                continue
            places = transform.places(start, stop)
            if isinstance(changed, DenseChange):
                stored = read_rows(changed.info, places, transform.columns, self._read)
            elif isinstance(changed, MaskedSum):
                stored = changed.rows(places, self._read, self._part)
            else:
                stored = changed.rows(places)
            out = self._undone[number].tensor(torch.float32, stop - start, transform.columns)
            if transform.maps:
                out = transform.invert(converted(stored, torch.float32, self._wide), start, out)
            else:
                out.copy_(stored)
            undone[number] = out.view(-1)
        self._compare(undone, moved=any(transform.maps for transform in transforms))
        return [(self.updates.weights[number], values) for number, values in undone.items()]

    def _compare(self, undone: dict[int, torch.Tensor], *, moved: bool) -> None:
        """Add the products of the copies' changes, if T moves this tensor; check the numbers."""
        for i, first in undone.items():
            for j, second in undone.items():
                if i != j and not (moved and i < j):
                    continue
                product = float(torch.dot(first, second))
                if i == j and not isfinite(product):
                    delta = self.updates.deltas[i]
                    own = {n: c for n, c in delta.tensors.items() if not isinstance(c, MaskedSum)}
                    check_numbers(delta.where, own)
                if moved:
                    self._gram[i, j] += product
                    if i != j:
                        self._gram[j, i] += product

    def _changed_tensor(self, number: int, name: str) -> ChangedTensor | MaskedSum | None:
        """The tensor of delta `number` with the change of θ's tensor `name`, if it changed."""
        layer = self._layer_of.get(name)
        target = name if layer is None else self._drawn[number][layer].target(name)
        return self.updates.deltas[number].tensors.get(target)

    def agreement(self) -> float | None:
        """The lowest pairwise cosine over the tensors that T moves.

        None with one copy, no T, or no change at all.
        """
        norms = [sqrt(float(self._gram[k, k])) for k in range(len(self._gram))]
        if len(norms) < 2 or not any(norms):
            return None
        return min(
            float(self._gram[i, j]) / (norms[i] * norms[j]) if norms[i] and norms[j] else 0.0
            for i in range(len(norms))
            for j in range(i)
        )
