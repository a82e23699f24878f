"""Tensors to and from their bytes on disk (this module imports torch; opening a checkpoint does not)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, TensorInfo
from mpu_cli.checkpoint.model import SPAN
from mpu_cli.errors import BadModelError

TORCH_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def read_tensor(info: TensorInfo) -> torch.Tensor:
    """Read a whole floating-point tensor in its own dtype."""
    return read_span(info, 0, info.elements).view(info.shape)


def read_span(info: TensorInfo, start: int, stop: int) -> torch.Tensor:
    """Read entries start..stop of a flattened tensor, shape (stop − start,).

    Raises:
        BadModelError: the dtype is not one that mpu computes with, or the file has shrunk.
    """
    if info.dtype not in TORCH_DTYPES:
        raise BadModelError(
            f"{info.file}: tensor {info.name} is stored as {info.dtype}",
            "convert the checkpoint to float32, bfloat16 or float16",
        )
    width = BYTES_PER_ELEMENT[info.dtype]
    buffer = bytearray((stop - start) * width)
    if buffer:
        with info.file.open("rb") as file:
            if os.preadv(file.fileno(), [buffer], info.start + start * width) != len(buffer):
                raise BadModelError(f"{info.file}: ends inside tensor {info.name}", "copy the file again")
    return torch.frombuffer(buffer, dtype=TORCH_DTYPES[info.dtype]) if buffer else torch.empty(0, dtype=TORCH_DTYPES[info.dtype])


def spans(elements: int) -> Iterator[tuple[int, int]]:
    """Cut `elements` entries into consecutive spans of at most SPAN."""
    for start in range(0, elements, SPAN):
        yield start, min(start + SPAN, elements)


def to_bytes(tensor: torch.Tensor) -> memoryview:
    """The little-endian bytes of a contiguous CPU tensor, without a copy."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data
