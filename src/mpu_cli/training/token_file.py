"""Vectors of labelled tokens in a file on disk, written once and read back by row.

Logits over a vocabulary of 128,000 take half a megabyte a token. The file shows the client's data,
so it has no name: nobody can open it, and the system frees its space whenever the process ends. It
lies in the temporary directory (TMPDIR) and is mapped into memory, so only what a batch reads is
loaded.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import OutputError


class TokenFile:
    """Float32 vectors of one width (V for logits, D for hidden states), a block for each row."""

    def __init__(self) -> None:
        """Make the file.

        Raises:
            OutputError: the temporary directory cannot be written.
        """
        self._width = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._end = 0
        self._mapped: np.ndarray | None = None
        with disk_errors(_where()):
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()

    def add(self, rows: Sequence[int], counts: Iterable[int], values: Tensor) -> None:
        """Append the vectors (N, width) of these rows, `counts` for each, row after row.

        Raises:
            OutputError: the disk is full.
        """
        self._width = values.shape[1]
        # On a full disk, a write into a mapped file would kill the process.
        with disk_errors(_where()):
            self._file.write(values.detach().to("cpu", torch.float32).numpy().tobytes())
            self._file.flush()
        for row, count in zip(rows, counts, strict=True):
            self._places[row] = (self._end, self._end + count)
            self._end += count

    def read(self, rows: Sequence[int]) -> Tensor:
        """The vectors of these rows, row after row, (N, width), float32."""
        if self._mapped is None:
            self._mapped = np.memmap(
                self._file, dtype=np.float32, mode="r", shape=(self._end, self._width)
            )
        blocks = [self._mapped[slice(*self._places[row])] for row in rows]
        return torch.from_numpy(np.concatenate(blocks))

    def close(self) -> None:
        """Free the space; a second call does nothing."""
        self._mapped = None
        with suppress(OSError):  # closing writes again what a full disk refused
            self._file.close()


def refuse_without_room(needed: int) -> None:
    """Raise OutputError if the temporary directory's disk has less than `needed` bytes free."""
    free = shutil.disk_usage(_where()).free
    if needed > free:
        raise OutputError(
            f"{_where()}: the reference logits take {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f}"
            " GB are free",
            f"set {'TMPDIR' if os.name == 'posix' else 'TEMP'} to a larger disk, or use --set"
            " retain_loss=NLL",
        )


def _where() -> Path:
    return Path(tempfile.gettempdir())
