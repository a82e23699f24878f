"""Rows of tensors on disk, and of products of two of them, as float32 (this module imports torch)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor as Tensor

from mpu_cli.checkpoint.dtypes import read_rows, read_tensor
from mpu_cli.checkpoint.header import TensorInfo

Places = npt.NDArray[np.int64]


def dense_rows(info: TensorInfo, places: Places, columns: int) -> Tensor:
    """Rows, given ascending, of a tensor seen as a matrix: (rows, columns)."""
    return read_rows(info, places, columns).float()


def product_rows(
    a: TensorInfo, b: TensorInfo, scale: float, places: Places, *, transposed: bool
) -> Tensor:
    """Rows, given ascending, of `scale · B A` or of its transpose: (rows, columns).

    A is (r, inputs), B is (outputs, r). Beside the rows only A is held whole, and B too where the
    product is transposed; the product is summed in float64, so that blocks of any size give the
    same float32.
    """
    if transposed:
        left, right = read_tensor(a).T[places], read_tensor(b).T
    else:
        left, right = read_rows(b, places, b.shape[1]), read_tensor(a)
    product: Tensor = left.double() @ right.double()
    return product.mul_(scale).float()
