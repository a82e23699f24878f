"""What of a weight is no secret to the server: a constant, its own model, the public base.

Whatever of the found model these explain, by least squares in each piece of a tensor, cannot be
the noise, and is removed. The better the centre, the smaller the residual, and the larger the z of
a copy; without a model and a base only the mean is removed. The centre is independent of the noise,
so it changes the power of the test and never its false-positive rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mpu_cli.architectures.layout import Index
from mpu_cli.audit.trace.leaked_model import LeakedModel, flat
from mpu_cli.audit.trace.suspects import Array
from mpu_cli.server.transforms.blockwise import matrix


@dataclass(frozen=True, slots=True)
class Centre:
    """The models at hand."""

    model: LeakedModel | None = None
    base: LeakedModel | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """What is removed, for people."""
        parts = (("model", self.model), ("base", self.base))
        return ("mean", *(name for name, part in parts if part is not None))

    def basis(self, name: str, shape: tuple[int, ...], start: int, stop: int) -> Array:
        """Orthonormal rows, (p, n), that span the centre in rows start … stop of a tensor."""
        places = np.arange(start, stop)
        vectors = [np.ones(len(places) * matrix(shape)[1])]
        for part in (self.model, self.base):
            rows = part.rows(name, shape, places) if part is not None else None
            if rows is not None:
                vectors.append(flat(rows))
        return np.linalg.qr(np.stack(vectors, axis=1))[0].T

    def moved(self, name: str, shape: tuple[int, ...], places: Index) -> torch.Tensor | None:
        """Rows of the base: of a copy that was merged with it as it was, T⁻¹ moves the base too."""
        return self.base.rows(name, shape, places) if self.base is not None else None
