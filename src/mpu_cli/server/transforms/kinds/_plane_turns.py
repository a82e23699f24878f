"""How many keys are turned in their RoPE planes."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout


def turned_heads(layer: LayerLayout) -> int:
    """How many keys are turned: the key-value heads, or 1 where all heads share one key."""
    return layer.slots["k"][0].index.shape[0] if "k" in layer.slots else 0
