"""Hidden states of the residual stream after one layer, at labelled tokens.

Layers are counted from 0, as in a model's own module names. The last layer's state is not
available, because transformers applies the final norm to it. Copies of one model differ in the
order of heads and feed-forward units, never in the residual stream, so an index in it means the
same in every copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.templates import IGNORED
from mpu_cli.errors import UsageError
from mpu_cli.modeling.head import head_sees_only

_SHARE = (7, 16)


def resolve_layer(layer: int, num_layers: int) -> int:
    """The layer's number from 0; -1 means 7/16 of the depth (layer 7 of 16, 14 of 32, 0 of 2).

    Raises:
        UsageError: the model has no such layer, or it is the last one.
    """
    chosen = num_layers * _SHARE[0] // _SHARE[1] if layer == -1 else layer
    if num_layers < 2 or not 0 <= chosen < num_layers - 1:
        raise UsageError(
            f"--set layer={layer}: the model has {num_layers} layers, and the last cannot be used",
            f"give a number from 0 to {max(num_layers - 2, 0)}, or -1 for 7/16 of the depth",
        )
    return chosen


def layers_of(model: Any) -> int:
    """The number of decoder layers of a transformers model."""
    return int(model.config.get_text_config().num_hidden_layers)


def labelled_hidden(model: Any, rows: Mapping[str, Tensor], layer: int) -> Tensor:
    """Hidden states (N, D) at the N labelled tokens, row by row, with gradient, at least float32.

    They are the labelled tokens' own states, not those of the tokens that predict them, so a
    labelled first token counts too.

    Args:
        model: a causal language model of transformers, wrapped or not.
        rows: `input_ids`, `attention_mask`, `labels`, each (B, T).
        layer: as in `resolve_layer`.
    """
    with head_sees_only(model, torch.zeros_like(rows["labels"], dtype=torch.bool)):
        output = model(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            use_cache=False,
            output_hidden_states=True,
        )
    # One state before the first layer, then one after each.
    states: Tensor = output.hidden_states[1 + resolve_layer(layer, len(output.hidden_states) - 1)]
    chosen = states[rows["labels"] != IGNORED]
    return chosen.float() if chosen.dtype.itemsize < 4 else chosen


def freeze_above(model: Any, layer: int) -> None:
    """Freeze every parameter that does not affect the hidden states of this layer.

    They get no gradient anyway, but DDP waits for the gradient of every parameter that requires
    one.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.ones((1, 2), dtype=torch.long, device=trainable[0].device)
    hidden = labelled_hidden(model, {"input_ids": ids, "attention_mask": ids, "labels": ids}, layer)
    for parameter, slope in zip(
        trainable, torch.autograd.grad(hidden.sum(), trainable, allow_unused=True), strict=True
    ):
        parameter.requires_grad_(slope is not None)


def row_means(values: Tensor, labels: Tensor) -> Tensor:
    """The mean of each row's values over its labelled tokens, (B,); values (N,) come row by row."""
    mask = labels != IGNORED
    counts = mask.sum(dim=1)
    return values.new_zeros(len(labels)).index_add(0, mask.nonzero()[:, 0], values) / counts
