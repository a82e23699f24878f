"""T of one tensor, a block of rows at a time.

A tensor is treated as a matrix: its last axis is the columns, all other axes together are the rows
(a vector is one column). The axis maps become one map of rows and one of columns. θ is read in
order, so that its noise is drawn in order; columns are permuted within a row, and each row is
written to its place in the copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import torch

from mpu_cli.architectures.layout import Index
from mpu_cli.server.transforms.axis_maps import AxisMap, PlaneRotation, SignedPermutation

BLOCK = 7 << 17
"""Entries of a block, about. Perturb needs the memory of 2m + 4 such blocks in float32."""


class BlockwiseTransform:
    """T of one tensor, made of its axis maps in the order of application."""

    def __init__(self, maps: Sequence[AxisMap], shape: tuple[int, ...]) -> None:
        self.rows, self.columns = matrix(shape)
        self.maps = tuple(maps)
        self.exact = all(step.exact for step in maps)
        self._turns: dict[int, list[PlaneRotation]] = {0: [], 1: []}
        self._source: list[Index | None] = [None, None]
        self._sign: list[Index | None] = [None, None]
        for step in maps:
            axis = 1 if step.axis == len(shape) - 1 and len(shape) > 1 else 0
            if isinstance(step, SignedPermutation):
                self._permute(axis, *_lifted(step, shape, axis))
            elif (
                isinstance(step, PlaneRotation) and step.axis == axis and self._source[axis] is None
            ):
                self._turns[axis].append(step)
            else:
                raise ValueError(
                    "a rotation must come before the permutations of its axis, on a matrix or a"
                    " vector"
                )
        # Narrow types: stacked experts have hundreds of thousands of rows, for each of m copies.
        source = self._source[0]
        self._place = None if source is None else np.argsort(source).astype(np.int32)
        self._source[0] = None
        self._sign = [
            None if sign is None or bool((sign > 0).all()) else sign.astype(np.int8)
            for sign in self._sign
        ]

    def _permute(self, axis: int, source: Index, sign: Index) -> None:
        before, signs = self._source[axis], self._sign[axis]
        self._source[axis] = source if before is None else before[source]
        self._sign[axis] = sign if signs is None else sign * signs[source]

    def straddled(self) -> Index:
        """How many pairs of a rotation a cut before each row would separate, (rows + 1,)."""
        change = np.zeros(self.rows + 1, dtype=np.int64)
        for turn in self._turns[0]:
            np.add.at(change, np.minimum(turn.first, turn.second) + 1, 1)
            np.add.at(change, np.maximum(turn.first, turn.second) + 1, -1)
        return np.cumsum(change)

    def places(self, start: int, stop: int) -> Index:
        """The places of θ's rows start … stop − 1 in the copy, ascending."""
        return (
            np.arange(start, stop)
            if self._place is None
            else np.sort(self._place[start:stop]).astype(np.int64)
        )

    def apply(
        self, block: torch.Tensor, start: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """T of θ's rows from `start`, (rows, columns), ordered by `places`; `out` is optional."""
        order = None if self._place is None else np.argsort(self._place[start : start + len(block)])
        moved = _selected(self._turned(block, start, back=False), order, self._source[1], out)
        for sign in self._signs(start, len(block), moved.dtype):
            moved.mul_(sign)
        return moved

    def invert(
        self, block: torch.Tensor, start: int, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """T⁻¹ of the copy's rows at `places`, as θ's rows from `start`; `block` may change."""
        for sign in self._signs(start, len(block), block.dtype):
            block.mul_(sign)
        order = (
            None
            if self._place is None
            else np.argsort(np.argsort(self._place[start : start + len(block)]))
        )
        columns = None if self._source[1] is None else np.argsort(self._source[1])
        return self._turned(_selected(block, order, columns, out), start, back=True)

    def _signs(self, start: int, rows: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Factors for rows that are already in their places."""
        by_row, by_column = self._sign
        signs = [] if by_row is None else [by_row[self.places(start, start + rows)].reshape(-1, 1)]
        signs += [] if by_column is None else [by_column.reshape(1, -1)]
        return [torch.from_numpy(sign).to(dtype) for sign in signs]

    def _turned(self, block: torch.Tensor, start: int, *, back: bool) -> torch.Tensor:
        for axis in (1, 0) if back else (0, 1):
            turns = self._turns[axis]
            for turn in reversed(turns) if back else turns:
                step = turn.inverse() if back else turn
                if axis == 0:
                    inside = (step.first >= start) & (step.first < start + len(block))
                    step = PlaneRotation(
                        0,
                        step.first[inside] - start,
                        step.second[inside] - start,
                        step.angle[inside],
                    )
                block = step.apply(block)
        return block


def _selected(
    block: torch.Tensor, rows: Index | None, columns: Index | None, out: torch.Tensor | None
) -> torch.Tensor:
    """Rows and columns of a block in another order, in `out` or in a new tensor."""
    if columns is not None and rows is not None:
        block, columns = block.index_select(1, torch.from_numpy(columns)), None
    result = torch.empty_like(block) if out is None else out
    if columns is not None:
        return torch.index_select(block, 1, torch.from_numpy(columns), out=result)
    if rows is not None and bool((rows[1:] < rows[:-1]).any()):
        return torch.index_select(block, 0, torch.from_numpy(rows), out=result)
    return result.copy_(block)


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix."""
    return (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (prod(shape), 1)


def row_blocks(
    shape: tuple[int, ...], transforms: Sequence[BlockwiseTransform], entries: int = BLOCK
) -> Iterator[tuple[int, int]]:
    """Cut a tensor's rows into blocks of about `entries` that separate no pair of a rotation.

    A rotation needs copies in float64, so its blocks are a quarter of that size.
    """
    rows, columns = matrix(shape)
    if rows == 0 or columns == 0:
        return
    parted = np.zeros(rows + 1, dtype=np.int64)
    for transform in transforms:
        if not transform.exact:
            parted += transform.straddled()
    allowed = np.flatnonzero(parted[1:] == 0) + 1 if parted.any() else None
    if not all(transform.exact for transform in transforms):
        entries //= 4
    size, start = max(1, entries // columns), 0
    while start < rows:
        stop = min(start + size, rows)
        if allowed is not None:
            index = int(np.searchsorted(allowed, stop, side="right")) - 1
            stop = (
                int(allowed[index])
                if index >= 0 and allowed[index] > start
                else int(allowed[allowed > start][0])
            )
        yield start, stop
        start = stop


def _lifted(step: SignedPermutation, shape: tuple[int, ...], axis: int) -> tuple[Index, Index]:
    """The permutation of the matrix's rows (or columns) that moves one axis of the tensor."""
    if axis == 1 or len(shape) == 1:
        return step.source, step.sign
    before, size, after = (
        prod(shape[: step.axis]),
        shape[step.axis],
        prod(shape[step.axis + 1 : -1]),
    )
    grid = np.arange(before * size * after).reshape(before, size, after)
    sign = np.broadcast_to(step.sign.reshape(1, size, 1), grid.shape)
    return grid[:, step.source].ravel(), sign.ravel()
