"""Vectors of labelled tokens, too many for memory: one file on disk, written once, read back by row.

Logits over a vocabulary of 128,000 take half a megabyte a token. The file lies in a private temporary directory (mode
0700), since it tells of the client's data, and is mapped into memory for reading, so that only what a batch asks for
is held.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import OutputError


class TokenFile:
    """Float32 vectors of a fixed width, a block of them for each row that was added."""

    def __init__(self, path: Path, width: int) -> None:
        """`path` is created; `width` is V for logits, D for hidden states."""
        self._path, self._width = path, width
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        self._mapped: np.ndarray | None = None
        with disk_errors(path.parent):
            path.touch(mode=0o600, exist_ok=False)

    def add(self, rows: Sequence[int], counts: Iterable[int], values: Tensor) -> None:
        """Append the vectors (N, width) of these rows, `counts` of them each, row after row.

        Raises:
            OutputError: the disk is full.
        """
        # Plain writing: a write into a mapped file would kill the process where the disk is full.
        with disk_errors(self._path.parent), self._path.open("ab") as file:
            file.write(values.detach().to("cpu", torch.float32).numpy().tobytes())
        for row, count in zip(rows, counts, strict=True):
            self._places[row] = (self._end, self._end + count)
            self._end += count

    def read(self, rows: Sequence[int]) -> Tensor:
        """The vectors of these rows, row after row, (N, width), float32."""
        if self._mapped is None:
            self._mapped = np.memmap(self._path, dtype=np.float32, mode="r", shape=(self._end, self._width))
        blocks = [self._mapped[slice(*self._places[row])] for row in rows]
        return torch.from_numpy(np.concatenate(blocks))


def refuse_without_room(directory: Path, needed: int) -> None:
    """Raise OutputError before any work if `directory`'s disk has less than `needed` bytes free."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OutputError(
            f"{directory}: the reference logits take {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
            f"set {'TMPDIR' if os.name == 'posix' else 'TEMP'} to a larger disk, or use --set retain_loss=NLL",
        )
