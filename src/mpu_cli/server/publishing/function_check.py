"""Check on the actual weights, one layer at a time, that T keeps the function (`perturb --check`).

One decoder layer is built from the family's real transformers class and run on random hidden
states, with θ's weights and with T(θ)'s. The limit of the difference is a multiple of the layer's
own rounding error (float32 against float64).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

import torch

from mpu_cli.architectures.layout import LayerLayout, ModelLayout
from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import FunctionChangedError
from mpu_cli.server.publishing.copy_set import CopySet, Progress
from mpu_cli.server.publishing.one_layer import OneLayer
from mpu_cli.server.transforms.reparameterization import Reparameterization

TOLERANCE = 20.0
"""The largest difference allowed, as a multiple of the layer's own rounding error."""

_POSITIONS = 16


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """One comparison: RMS differences relative to the RMS of the layer's output."""

    layer: int
    position: int
    difference: float
    rounding: float

    @property
    def passed(self) -> bool:
        """Whether rounding explains the difference; a layer that overflows in float32 fails."""
        return isfinite(self.rounding) and self.difference <= TOLERANCE * self.rounding


def layers_to_check(layout: ModelLayout, extent: str) -> list[LayerLayout]:
    """All layers (`all`), none (`none`), or the first, the middle and the last (`sample`)."""
    if extent == "none":
        return []
    if extent == "all":
        return list(layout.layers)
    indices = sorted({0, len(layout.layers) // 2, len(layout.layers) - 1})
    return [layout.layers[index] for index in indices]


def check_copies(copies: CopySet, extent: str, progress: Progress) -> tuple[LayerCheck, ...]:
    """Check every copy of a draw before it is written.

    Raises:
        FunctionChangedError: see `require_passed`.
    """
    results: list[LayerCheck] = []
    layers = layers_to_check(copies.layout, extent) if copies.transforms else []
    for done, layer in enumerate(layers):
        progress("check", done, len(layers))
        results += check_layer(copies.model, copies.layout, layer, copies.layer_transforms(layer))
        require_passed(results)
    return tuple(results)


def check_layer(
    model: Checkpoint, layout: ModelLayout, layer: LayerLayout, steps: Sequence[Reparameterization]
) -> list[LayerCheck]:
    """Compare one layer with each of its reparameterizations (by position of the copy).

    Peak memory is three float32 layers: the float32 network while its float64 twin is made.
    """
    builder = OneLayer(model.path, layout, layer)
    original = {name: partial(_read, model, name) for name in layer.noised}
    network = builder.load(original)
    width = network.get_input_embeddings().embedding_dim
    hidden = torch.randn(1, _POSITIONS, width, generator=torch.Generator().manual_seed(layer.index))
    rounded = builder.run(network, hidden)
    exact = builder.run(network.double(), hidden.double())
    del network
    scale = _rms(exact)
    # Rounding cannot be finer than float32 itself, even if this layer happens to sum exactly.
    rounding = max(_rms(rounded - exact) / scale, 2.0**-24)
    checks = []
    for position, step in enumerate(steps):
        transformed = {
            step.target(name): partial(_transformed, model, name, step) for name in layer.noised
        }
        difference = _rms(builder.run(builder.load(transformed), hidden) - exact) / scale
        checks.append(LayerCheck(layer.index, position, difference, rounding))
    return checks


def require_passed(checks: Sequence[LayerCheck]) -> None:
    """Raise FunctionChangedError naming the first layer whose function changed."""
    for check in checks:
        if not isfinite(check.rounding):
            raise FunctionChangedError(
                f"layer {check.layer}: its output is not a finite number in float32, so its"
                " reparameterization cannot be checked",
                "nothing was published; look for damaged weights with mpu verify, or give --check"
                " none",
            )
        if not check.passed:
            raise FunctionChangedError(
                f"layer {check.layer}: the reparameterized weights compute something else"
                f" (difference {check.difference:.1e} of the output, the layer's own rounding is"
                f" {check.rounding:.1e})",
                "nothing was published; the family's data file does not describe this model: please"
                " report it",
            )


def _read(model: Checkpoint, name: str) -> torch.Tensor:
    return read_tensor(model.tensors[name]).float()


def _transformed(model: Checkpoint, name: str, step: Reparameterization) -> torch.Tensor:
    return step.apply(name, _read(model, name))


def _rms(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt())
