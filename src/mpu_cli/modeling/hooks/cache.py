"""How a model of transformers keeps what it has read."""

from __future__ import annotations

from typing import Any


def reads_padding(model: Any) -> bool:
    """Whether padding changes what the model writes: the state of a recurrent layer has read it."""
    from transformers import DynamicCache

    layers = DynamicCache(config=model.config).layers
    return bool(model._is_stateful) or not all(
        hasattr(layer, "batch_select_indices") for layer in layers
    )
