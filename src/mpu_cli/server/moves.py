"""T of one tensor, a block of rows at a time.

A tensor is seen as a matrix: its last axis are the columns, all others together the rows (a vector is one column). The
axis maps fold into one map of rows and one of columns. θ is read in its own order, so that its noise is drawn in order
too; columns change within a row, and each row goes to its own place in the copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import torch

from mpu_cli.architectures.layout import Index
from mpu_cli.server.transforms.axis_maps import AxisMap, PlaneRotation, SignedPermutation

BLOCK = 1 << 20
"""Entries of a block, about; the (3m + 3) blocks of float32 that perturb holds set its memory."""


class Move:
    """T of one tensor, from its axis maps in the order in which they are applied."""

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
            elif isinstance(step, PlaneRotation) and step.axis == axis and self._source[axis] is None:
                self._turns[axis].append(step)
            else:
                raise ValueError("a rotation must come before the permutations of its axis, on a matrix or a vector")
        source = self._source[0]
        self._place = None if source is None else np.argsort(source)

    def _permute(self, axis: int, source: Index, sign: Index) -> None:
        before, signs = self._source[axis], self._sign[axis]
        self._source[axis] = source if before is None else before[source]
        self._sign[axis] = sign if signs is None else sign * signs[source]

    def straddled(self) -> Index:
        """(rows + 1,): how many pairs of a rotation a cut before each row would part."""
        change = np.zeros(self.rows + 1, dtype=np.int64)
        for turn in self._turns[0]:
            np.add.at(change, np.minimum(turn.first, turn.second) + 1, 1)
            np.add.at(change, np.maximum(turn.first, turn.second) + 1, -1)
        return np.cumsum(change)

    def places(self, start: int, stop: int) -> Index:
        """Where rows start..stop of θ are in the copy, ascending."""
        return np.arange(start, stop) if self._place is None else np.sort(self._place[start:stop])

    def apply(self, block: torch.Tensor, start: int) -> torch.Tensor:
        """T of θ's rows from `start` on, (rows, columns), in the order of `places`. May return the block itself."""
        moved = self._turned(block, start, back=False)
        source = self._source[1]
        if source is not None:
            moved = moved.index_select(1, torch.from_numpy(source))
        if self._place is not None:
            order = np.argsort(self._place[start : start + len(block)])
            if bool((order[1:] < order[:-1]).any()):
                moved = moved.index_select(0, torch.from_numpy(order))
        return self._signed(moved, start, own=moved is not block)

    def invert(self, block: torch.Tensor, start: int) -> torch.Tensor:
        """T⁻¹ of the rows that `places` gives, as θ's rows from `start` on."""
        back = self._signed(block, start, own=False)
        if self._place is not None:
            order = np.argsort(np.argsort(self._place[start : start + len(block)]))
            back = back.index_select(0, torch.from_numpy(order))
        if self._source[1] is not None:
            back = back.index_select(1, torch.from_numpy(np.argsort(self._source[1])))
        return self._turned(back, start, back=True)

    def _signed(self, block: torch.Tensor, start: int, *, own: bool) -> torch.Tensor:
        """A block that is in its places, signed; in place where it is this function's `own`."""
        rows, columns = self._sign
        if rows is not None:
            rows = rows[self.places(start, start + len(block))].reshape(-1, 1)
        for sign in (rows, None if columns is None else columns.reshape(1, -1)):
            if sign is not None and (sign < 0).any():
                factor = torch.from_numpy(sign).to(block.dtype)
                block = block.mul_(factor) if own else block * factor
                own = True
        return block

    def _turned(self, block: torch.Tensor, start: int, *, back: bool) -> torch.Tensor:
        for axis in (1, 0) if back else (0, 1):
            turns = self._turns[axis]
            for turn in reversed(turns) if back else turns:
                step = turn.inverse() if back else turn
                if axis == 0:
                    inside = (step.first >= start) & (step.first < start + len(block))
                    step = PlaneRotation(0, step.first[inside] - start, step.second[inside] - start, step.angle[inside])
                block = step.apply(block)
        return block


def matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a tensor seen as a matrix."""
    return (prod(shape[:-1]), shape[-1]) if len(shape) > 1 else (prod(shape), 1)


def row_blocks(shape: tuple[int, ...], moves: Sequence[Move], entries: int = BLOCK) -> Iterator[tuple[int, int]]:
    """Cut a tensor's rows into blocks of about `entries` that no rotation's pair straddles."""
    rows, columns = matrix(shape)
    if rows == 0 or columns == 0:
        return
    parted = np.zeros(rows + 1, dtype=np.int64)
    for move in moves:
        if not move.exact:
            parted += move.straddled()
    allowed = np.flatnonzero(parted[1:] == 0) + 1 if parted.any() else None
    size, start = max(1, entries // columns), 0
    while start < rows:
        stop = min(start + size, rows)
        if allowed is not None:
            index = int(np.searchsorted(allowed, stop, side="right")) - 1
            stop = int(allowed[index]) if index >= 0 and allowed[index] > start else int(allowed[allowed > start][0])
        yield start, stop
        start = stop


def _lifted(step: SignedPermutation, shape: tuple[int, ...], axis: int) -> tuple[Index, Index]:
    """The permutation of the matrix's rows (or columns) that moves one axis of the tensor."""
    if axis == 1 or len(shape) == 1:
        return step.source, step.sign
    before, size, after = prod(shape[: step.axis]), shape[step.axis], prod(shape[step.axis + 1 : -1])
    grid = np.arange(before * size * after).reshape(before, size, after)
    sign = np.broadcast_to(step.sign.reshape(1, size, 1), grid.shape)
    return grid[:, step.source].ravel(), sign.ravel()
