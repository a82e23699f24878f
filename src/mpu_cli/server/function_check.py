"""Proof on the actual weights, a layer at a time, that T keeps the function (`perturb --check`).

One decoder layer is built from the family's real transformers class, run on random hidden states with θ's weights and
with T(θ)'s, and the difference is judged against that layer's own rounding (float32 against float64).
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mpu_cli.architectures.layout import LayerLayout, ModelLayout
from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import FunctionChangedError
from mpu_cli.server.transforms import Reparameterization

TOLERANCE = 20.0
"""How many times a layer's own rounding the difference may be."""

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
        """Whether the difference may be rounding."""
        return self.difference <= TOLERANCE * self.rounding


def layers_to_check(layout: ModelLayout, extent: str) -> list[LayerLayout]:
    """All layers, or with `sample` the first, a middle and the last one."""
    if extent == "none":
        return []
    if extent == "all":
        return list(layout.layers)
    chosen = sorted({0, len(layout.layers) // 2, len(layout.layers) - 1})
    return [layout.layers[index] for index in chosen]


def check_layer(
    model: Checkpoint, layout: ModelLayout, layer: LayerLayout, steps: Sequence[Reparameterization]
) -> list[LayerCheck]:
    """Compare one layer with each of its reparameterizations (by position of the draw)."""
    weights = {name: read_tensor(model.tensors[name]).float() for name in layer.noised}
    network = _one_layer(model.config, layer.index)
    hidden = torch.randn(1, _POSITIONS, _hidden_size(network), generator=torch.Generator().manual_seed(layer.index))
    exact = _run(network, layout, layer, weights, hidden.double())
    scale = _rms(exact)
    # Rounding cannot be finer than float32 itself, even if this layer happens to sum exactly.
    rounding = max(_rms(_run(network, layout, layer, weights, hidden) - exact) / scale, 2.0**-24)
    checks = []
    for position, step in enumerate(steps):
        moved = {name: step.apply(name, tensor) for name, tensor in weights.items()}
        difference = _rms(_run(network, layout, layer, moved, hidden) - exact) / scale
        checks.append(LayerCheck(layer.index, position, difference, rounding))
    return checks


def require_passed(checks: Sequence[LayerCheck]) -> None:
    """Raise FunctionChangedError naming the first layer whose function changed."""
    for check in checks:
        if not check.passed:
            raise FunctionChangedError(
                f"layer {check.layer}: the reparameterized weights compute something else (difference "
                f"{check.difference:.1e} of the output, the layer's own rounding is {check.rounding:.1e})",
                "nothing was published; the family's data file does not describe this model, please report it",
            )


def _one_layer(config: Mapping[str, Any], index: int) -> Any:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity(logging.ERROR)
    single = copy.deepcopy(dict(config))
    count = single["num_hidden_layers"]
    for key, value in single.items():
        if isinstance(value, list) and len(value) == count:
            single[key] = [value[index]]  # per-layer lists such as layer_types
    single.update(num_hidden_layers=1, vocab_size=8, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    single.pop("dtype", None)
    single.pop("torch_dtype", None)
    built = AutoConfig.for_model(**{**single, "model_type": config["model_type"]})
    built._attn_implementation = "eager"
    network: Any = AutoModel.from_config(built, dtype=torch.float32)  # type: ignore[no-untyped-call]
    return network.eval()


def _hidden_size(network: Any) -> int:
    return int(network.config.hidden_size)


def _run(
    network: Any, layout: ModelLayout, layer: LayerLayout, weights: Mapping[str, torch.Tensor], hidden: torch.Tensor
) -> torch.Tensor:
    prefix = _common_prefix(layer)
    state = {f"layers.0.{name.removeprefix(prefix)}": tensor for name, tensor in weights.items()}
    network.to(hidden.dtype)
    missing, unexpected = network.load_state_dict(state, strict=False)
    foreign = [name for name in missing if name.startswith("layers.0.")]
    if unexpected or foreign:
        raise FunctionChangedError(
            f"layer {layer.index}: transformers' {layout.family} layer has no place for {(unexpected or foreign)[0]}",
            "nothing was published; this transformers version lays the model out differently",
        )
    with torch.inference_mode():
        output: torch.Tensor = network(inputs_embeds=hidden, use_cache=False).last_hidden_state
    return output.double()


def _common_prefix(layer: LayerLayout) -> str:
    first = layer.noised[0]
    return first[: first.index(f".{layer.index}.") + len(f".{layer.index}.")]


def _rms(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt())
