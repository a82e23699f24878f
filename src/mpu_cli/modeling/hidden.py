"""Hidden states of the residual stream after one layer, at labelled tokens or in prompts.

Layers are counted from 0, as in a model's own module names. The last layer's state is not
available, because transformers applies the final norm to it. Copies of one model differ in the
order of heads and feed-forward units, never in the residual stream, so an index in it means the
same in every copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpu_cli.architectures.projections import projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.data.templates import IGNORED
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.modeling.head import head_sees_only

_SIXTEENTHS = {-1: 7, -2: 11}
"""What negative layers mean: layer 7 of 16 (RMU), layer 22 of 32 (LUNAR)."""


def resolve_layer(layer: int, num_layers: int) -> int:
    """The layer's number from 0.

    -1 means 7/16 of the depth (layer 7 of 16, 14 of 32, 0 of 2), and -2 means 11/16 of it.

    Raises:
        UsageError: the model has no such layer, or it is the last one.
    """
    chosen = layer
    if layer in _SIXTEENTHS:
        chosen = min(num_layers * _SIXTEENTHS[layer] // 16, num_layers - 2)
    if num_layers < 2 or not 0 <= chosen < num_layers - 1:
        raise UsageError(
            f"--set layer={layer}: the model has {num_layers} layers, and the last cannot be used",
            f"give a number from 0 to {max(num_layers - 2, 0)}, or -1 (-2) for 7/16 (11/16) of the"
            " depth",
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
    return _states(model, rows, layer)[rows["labels"] != IGNORED]


def prompt_hidden(model: Any, rows: Mapping[str, Tensor], layer: int) -> Tensor:
    """Hidden states (N, D) at the N tokens of the rows' prompts, as `labelled_hidden` gives them.

    A row's prompt is what comes before its first labelled token.
    """
    return _states(model, rows, layer)[_in_prompts(rows)]


def last_prompt_hidden(model: Any, rows: Mapping[str, Tensor], layer: int) -> Tensor:
    """The hidden state of each row at its prompt's last token, (B, D); every row has a prompt."""
    last = _in_prompts(rows).sum(dim=1) - 1
    states = _states(model, rows, layer)
    return states[torch.arange(len(last), device=states.device), last]


def _in_prompts(rows: Mapping[str, Tensor]) -> Tensor:
    """Which tokens belong to a prompt, (B, T); rows are padded at the right."""
    begun = (rows["labels"] != IGNORED).cumsum(dim=1) > 0
    return (rows["attention_mask"] == 1) & ~begun


def _states(model: Any, rows: Mapping[str, Tensor], layer: int) -> Tensor:
    with head_sees_only(model, torch.zeros_like(rows["labels"], dtype=torch.bool)):
        output = model(
            input_ids=rows["input_ids"],
            attention_mask=rows["attention_mask"],
            use_cache=False,
            output_hidden_states=True,
        )
    # One state before the first layer, then one after each.
    states: Tensor = output.hidden_states[1 + resolve_layer(layer, len(output.hidden_states) - 1)]
    return states.float() if states.dtype.itemsize < 4 else states


def freeze_all_but_down(model: Any, layer: int) -> None:
    """Train only the matrix through which this layer's feed-forward writes, or its adapter.

    Raises:
        UsageError: the layer has no such single matrix (experts, or a model of no known family), or
            it has no adapter.
    """
    named = dict(model.named_parameters())
    shapes = {
        name.replace(".base_layer.", "."): tuple(parameter.shape)
        for name, parameter in named.items()
        if ".lora_" not in name
    }
    chosen = resolve_layer(layer, layers_of(model))
    try:
        matrices = projections(read_layout(model.config.to_dict(), shapes, Path()), shapes)
    except BadModelError:  # stacked experts are not found by their names on disk
        matrices = {}
    found = [one for one in matrices.values() if one.layer == chosen and "down" in one.roles]
    if len(found) != 1:
        raise UsageError(
            f"this method trains the one down projection of a layer, and layer {chosen} of this"
            f" model has {len(found)} that are known",
            "choose another --method for a model with experts, or of no known family",
        )
    prefix = f"{found[0].module}."
    for name, parameter in named.items():
        is_part = name == found[0].tensor or name.startswith(f"{prefix}lora_")
        parameter.requires_grad_(parameter.requires_grad and is_part)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise UsageError(
            f"this method trains only {found[0].module}, which has no adapter",
            "give --lora-targets down, or leave --lora-rank out",
        )


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
