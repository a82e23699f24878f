"""Rows of low-rank products as float32. This module imports torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor as Tensor

from mpu_cli.checkpoint.dtypes import read_rows, read_tensor
from mpu_cli.checkpoint.header import TensorInfo

Places = npt.NDArray[np.int64]


def product_rows(
    a: TensorInfo, b: TensorInfo, scale: float, places: Places, *, transposed: bool
) -> Tensor:
    """Rows, in ascending order, of `scale · B A` or of its transpose: (rows, columns).

    A is (r, inputs), B is (outputs, r). Only A is read whole, and B too if the product is
    transposed. The product is summed in float64, so the float32 result does not depend on the
    block size.
    """
    if transposed:
        left, right = read_tensor(a).T[places], read_tensor(b).T
    else:
        left, right = read_rows(b, places, b.shape[1]), read_tensor(a)
    product: Tensor = left.double() @ right.double()
    return product.mul_(scale).float()
