"""The found model: a model directory, or one safetensors file of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mpu_cli.architectures.layout import Index, ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.audit.trace.suspects import Array
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.dtypes import read_rows, read_tensor
from mpu_cli.checkpoint.header import TensorInfo, read_header
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.errors import BadModelError
from mpu_cli.server.transforms.blockwise import matrix

_WHOLE = 1 << 22
"""A tensor of at most so many entries is read once and kept until the next is asked for."""


@dataclass(frozen=True, slots=True)
class OpenLayout:
    """What the tensors of the lineage's models are."""

    layout: ModelLayout
    shapes: dict[str, tuple[int, ...]]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> OpenLayout:
        """The layout of a whole model."""
        sizes = shapes(checkpoint.tensors)
        return cls(read_layout(checkpoint.config, sizes, checkpoint.path), sizes)


class LeakedModel:
    """Reads rows of the tensors that the found model has."""

    def __init__(self, path: Path, tensors: dict[str, TensorInfo]) -> None:
        self.path, self.tensors = path, tensors
        self._kept: tuple[str, torch.Tensor] | None = None

    def rows(self, name: str, shape: tuple[int, ...], places: Index) -> torch.Tensor | None:
        """Rows of a tensor seen as a matrix, float32, (rows, columns), in memory of their own.

        None if the found model has no such tensor of this shape.

        Raises:
            BadModelError: an entry is not a number, or mpu does not compute with the dtype.
        """
        info = self.tensors.get(name)
        if info is None or info.shape != shape:
            return None
        columns = matrix(shape)[1]
        if info.elements > _WHOLE:
            rows = read_rows(info, places, columns).float()
        else:
            if self._kept is None or self._kept[0] != name:
                self._kept = (name, read_tensor(info).float().view(-1, columns))
            rows = self._kept[1].index_select(0, torch.from_numpy(places))
        if not bool(torch.isfinite(rows).all()):
            raise BadModelError(
                f"{self.path}: tensor {name} holds NaN or infinity",
                "give the found model as it was found; nothing can be traced in such weights",
            )
        return rows


def open_leaked(path: Path, known: OpenLayout | None) -> tuple[LeakedModel, OpenLayout]:
    """Open the found model, with the layout of the lineage's models.

    Args:
        path: a model directory, or a safetensors file.
        known: the layout of a model of the lineage; None to take the found model's own.

    Raises:
        BadModelError: it is neither, or its layout is needed and not whole.
    """
    if path.is_file() and path.suffix == ".safetensors":
        if known is None:
            raise BadModelError(
                f"{path}: one file of weights does not say how its tensors are laid out",
                "give a model of the lineage with --model, or the whole model directory",
            )
        return LeakedModel(path, read_header(path)[0]), known
    checkpoint = open_checkpoint(path)
    return LeakedModel(path, checkpoint.tensors), known or OpenLayout.of(checkpoint)


def flat(rows: torch.Tensor) -> Array:
    """The entries as a float64 vector."""
    vector: Array = rows.reshape(-1).to(torch.float64).numpy()
    return vector


def without(basis: Array, vector: Array) -> Array:
    """What orthonormal rows, (p, n), do not explain of a vector, (n,)."""
    return np.asarray(vector - (basis @ vector) @ basis)
