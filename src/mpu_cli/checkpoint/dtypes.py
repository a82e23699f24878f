"""Convert tensors to and from their bytes on disk. This module imports torch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, TensorInfo
from mpu_cli.checkpoint.model import SPAN
from mpu_cli.errors import BadModelError

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
MANTISSA_BITS = {"F32": 23, "BF16": 7, "F16": 10}


class Scratch:
    """Memory for one block at a time (see `buffers`); each `tensor` overwrites the previous one."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)

    def tensor(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """Return an uninitialised tensor."""
        nbytes = prod(shape) * dtype.itemsize
        if nbytes > len(self._memory):
            self._memory = torch.empty(0, dtype=torch.uint8)  # free the old memory first
            self._memory = torch.empty(nbytes, dtype=torch.uint8)
        return self._memory[:nbytes].view(dtype).view(shape)


def converted(tensor: torch.Tensor, dtype: torch.dtype, scratch: Scratch) -> torch.Tensor:
    """Return the tensor itself if it has this dtype, or else a copy in `scratch`."""
    return tensor if tensor.dtype == dtype else scratch.tensor(dtype, *tensor.shape).copy_(tensor)


def grid_step(values: torch.Tensor, dtype: str) -> torch.Tensor:
    """The distance between neighbouring numbers of a dtype (safetensors' name) around values."""
    _, exponent = torch.frexp(values)
    return torch.ldexp(torch.ones_like(values), exponent - 1 - MANTISSA_BITS[dtype])


def read_tensor(info: TensorInfo) -> torch.Tensor:
    """Read a whole floating-point tensor in its own dtype."""
    return read_span(info, 0, info.elements).view(info.shape)


def read_span(
    info: TensorInfo, start: int, stop: int, scratch: Scratch | None = None
) -> torch.Tensor:
    """Read entries start to stop of a flattened tensor, (stop − start,), in `scratch` if given.

    Raises:
        BadModelError: mpu does not compute with this dtype, or the file has shrunk.
    """
    return _read(info, stop - start, [(0, start, stop - start)], scratch)


def read_rows(
    info: TensorInfo, rows: npt.NDArray[np.int64], columns: int, scratch: Scratch | None = None
) -> torch.Tensor:
    """Read rows, in ascending order, of a tensor viewed as a matrix: (rows, columns).

    Raises the errors of `read_span`.
    """
    first = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    lengths = np.diff(first, append=len(rows))
    pieces = zip(
        (first * columns).tolist(),
        (rows[first] * columns).tolist(),
        (lengths * columns).tolist(),
        strict=True,
    )
    return _read(info, len(rows) * columns, pieces, scratch).view(len(rows), columns)


def _read(
    info: TensorInfo, entries: int, pieces: Iterable[tuple[int, int, int]], scratch: Scratch | None
) -> torch.Tensor:
    """Read pieces (offset in the result, offset in the tensor, length), all in entries."""
    if info.dtype not in TORCH_DTYPES:
        raise BadModelError(
            f"{info.file}: tensor {info.name} has the dtype {info.dtype}, which mpu cannot use",
            "convert the checkpoint to float32, bfloat16 or float16",
        )
    width = BYTES_PER_ELEMENT[info.dtype]
    result = (scratch or Scratch()).tensor(TORCH_DTYPES[info.dtype], entries)
    buffer = to_bytes(result)
    with info.file.open("rb", buffering=0) as file:
        for place, start, length in pieces:
            left = buffer[place * width : (place + length) * width]
            offset = info.start + start * width
            while left:
                read = os.preadv(file.fileno(), [left], offset)
                if read == 0:
                    raise BadModelError(
                        f"{info.file}: ends inside tensor {info.name}", "copy the file again"
                    )
                left, offset = left[read:], offset + read
    return result


def spans(elements: int) -> Iterator[tuple[int, int]]:
    """Cut `elements` entries into consecutive spans of at most SPAN."""
    for start in range(0, elements, SPAN):
        yield start, min(start + SPAN, elements)


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """Return the little-endian bytes of a contiguous CPU tensor, without a copy."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
