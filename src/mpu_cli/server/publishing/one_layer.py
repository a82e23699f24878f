"""A model of one decoder layer, built from the family's transformers class, with lazy weights.

Memory: one float32 layer, and a second copy of the experts while transformers stacks them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mpu_cli.architectures.layout import LayerLayout, ModelLayout
from mpu_cli.errors import FunctionChangedError
from mpu_cli.modeling.hooks.loading import (
    LazyTensor,
    Reader,
    from_tensors,
    model_class,
    one_tensor_at_a_time,
)
from mpu_cli.modeling.load import loading_errors


class OneLayer:
    """Builds one network repeatedly with other weights of the layer."""

    def __init__(self, directory: Path, layout: ModelLayout, layer: LayerLayout) -> None:
        from transformers import AutoConfig

        self._directory = directory
        with loading_errors(directory):
            # With all per-layer lists, also those that transformers adds to config.json.
            whole = AutoConfig.for_model(**layout.config).to_dict()
            self._config = AutoConfig.for_model(**_single(whole, layout, layer))
        self._class = model_class(self._config)
        self._layout, self._layer = layout, layer

    def load(self, weights: Mapping[str, Reader]) -> Any:
        """Build the network in float32 with these weights of the layer, by on-disk name.

        All other weights are the same in every call.

        Raises:
            FunctionChangedError: transformers has no place for a tensor, or a tensor is missing.
            BadModelError: transformers does not understand the configuration.
        """
        state = {self._name(name): LazyTensor(read) for name, read in weights.items()}
        with loading_errors(self._directory), torch.random.fork_rng(), one_tensor_at_a_time():
            torch.manual_seed(0)
            network, info = from_tensors(
                copy.deepcopy(self._config),
                state,
                torch.float32,
                attn_implementation="eager",
                experts_implementation="eager",
            )
        foreign = [*info["unexpected_keys"], *(str(item) for item in info["mismatched_keys"])]
        first = self._name(self._layer.noised[0])
        inside = first[: first.index(".0.") + len(".0.")]
        foreign += [name for name in info["missing_keys"] if name.startswith(inside)]
        if foreign:
            raise FunctionChangedError(
                f"layer {self._layer.index}: transformers' {self._layout.family} layer has no place"
                f" for {foreign[0]}",
                "nothing was published; this transformers version lays the model out differently",
            )
        return network.eval()

    def _name(self, name: str) -> str:
        """On-disk name in a checkpoint of the language model with this layer as its number 0."""
        parts = name.split(".")
        parts = parts[parts.index(self._class.base_model_prefix) :]
        parts[parts.index(str(self._layer.index))] = "0"
        return ".".join(parts)

    def run(self, network: Any, hidden: torch.Tensor) -> torch.Tensor:
        """Run a network on hidden states (B, T, D) as its embeddings; return its float64 output.

        Raises:
            BadModelError: transformers cannot compute what the configuration says.
        """
        with loading_errors(self._directory), torch.inference_mode():
            output: torch.Tensor = network.base_model(
                inputs_embeds=hidden, use_cache=False
            ).last_hidden_state
        return output.double()


def _single(whole: Mapping[str, Any], layout: ModelLayout, layer: LayerLayout) -> dict[str, Any]:
    single = copy.deepcopy(dict(whole))
    for key, value in single.items():
        if isinstance(value, list) and len(value) == len(layout.layers):
            single[key] = [value[layer.index]]  # per-layer lists such as layer_types
    single |= layout.single_layer.get("sparse" if layer.experts else "dense", {})
    for key in ("num_hidden_layers", "n_layer"):
        if key in single:
            single[key] = 1
    for key in ("dtype", "torch_dtype"):
        single.pop(key, None)
    return {
        **single,
        "vocab_size": 8,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
