"""Logits of chosen positions only, because the head is a model's widest matrix.

The positions are chosen before the head, so a family's own operations on logits (a scale, a soft
cap) still apply, and this module need not know them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor


def logits_at(model: Any, rows: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    """Logits (N, V) of the N wanted positions, row after row, with gradient, in one forward pass.

    Args:
        model: a causal language model of transformers, wrapped or not.
        rows: `input_ids` and `attention_mask`, each (B, T).
        wanted: (B, T) bool.
    """
    with head_sees_only(model, wanted) as chosen:
        output = model(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False
        )
    logits: Tensor = output.logits[0] if chosen else output.logits[wanted]
    return logits


@contextmanager
def head_sees_only(model: Any, wanted: Tensor) -> Iterator[list[bool]]:
    """Within the context, logits are (1, N, V): those of the wanted positions (B, T).

    The yielded list stays empty if the model has no such head.
    """
    head = getattr(model, "module", model).get_output_embeddings()
    chosen: list[bool] = []

    def choose(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not inputs or inputs[0].shape[:-1] != wanted.shape:
            return None
        chosen.append(True)
        return (inputs[0][wanted][None], *inputs[1:])

    hook = None if head is None else head.register_forward_pre_hook(choose)
    try:
        yield chosen
    finally:
        if hook is not None:
            hook.remove()
