"""The change of a model: η Σ_k w_k T_k⁻¹(Δ_k) over all draws, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.bundle.payload import ChangedTensor, DenseChange, check_numbers
from mpu_cli.checkpoint.change import PIECE, Spans
from mpu_cli.checkpoint.dtypes import Scratch, converted, read_rows
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.server.aggregation.copy_statistics import (
    DrawStatistics,
    TensorStatistics,
)
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
        self.statistics = DrawStatistics(len(deltas))
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
        if start == 0:  # write_changed may read the tensors a second time: that begins anew
            self.statistics.tensors[info.name] = TensorStatistics.empty(
                len(transforms),
                transforms[0].rows,
                transforms[0].columns,
                moved=any(transform.maps for transform in transforms),
            )
        self._add(self.statistics.tensors[info.name], start, transforms[0].columns, undone)
        return [(self.updates.weights[number], values) for number, values in undone.items()]

    def _add(
        self, tensor: TensorStatistics, start: int, columns: int, undone: dict[int, torch.Tensor]
    ) -> None:
        """Add rows to the statistics of their tensor; check the numbers."""
        tensor.add(start, columns, undone)
        for number in undone:
            if not isfinite(tensor.gram[number][number]):
                delta = self.updates.deltas[number]
                own = {n: c for n, c in delta.tensors.items() if not isinstance(c, MaskedSum)}
                check_numbers(delta.where, own)

    def _changed_tensor(self, number: int, name: str) -> ChangedTensor | MaskedSum | None:
        """The tensor of delta `number` with the change of θ's tensor `name`, if it changed."""
        layer = self._layer_of.get(name)
        target = name if layer is None else self._drawn[number][layer].target(name)
        return self.updates.deltas[number].tensors.get(target)
