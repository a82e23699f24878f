"""Hidden states of the residual stream after one layer, at labelled tokens or in prompts.

Layers are counted from 0, as in a model's own module names. The state of the last layer is taken
before the final norm, so it is the same in a model that ends there. Copies of one model differ in
the order of heads and feed-forward units, never in the residual stream, so an index in it means the
same in every copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import ModuleList

from mpu_cli.architectures.family import family_of
from mpu_cli.checkpoint.config_file import CONFIG_FILE
from mpu_cli.data.templates import IGNORED
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.modeling.head import head_sees_only

_SIXTEENTHS = {-1: 7, -2: 11}
"""What negative layers mean: layer 7 of 16 (RMU), layer 22 of 32 (LUNAR)."""


def resolve_layer(layer: int, num_layers: int) -> int:
    """The layer's number from 0.

    -1 means 7/16 of the depth (layer 7 of 16, 14 of 32, 0 of 2), and -2 means 11/16 of it.

    Raises:
        UsageError: the model has no such layer.
    """
    chosen = layer
    if layer in _SIXTEENTHS:
        chosen = min(num_layers * _SIXTEENTHS[layer] // 16, max(num_layers - 2, 0))
    if not 0 <= chosen < num_layers:
        raise UsageError(
            f"--set layer={layer}: the model has {num_layers} layer{'s' * (num_layers > 1)}",
            f"give a number from 0 to {num_layers - 1}, or -1 (-2) for 7/16 (11/16) of the depth",
        )
    return chosen


def layers_of(model: Any) -> int:
    """The number of decoder layers of a transformers model, wrapped or not."""
    return int(getattr(model, "module", model).config.get_text_config().num_hidden_layers)


def decoder_layers(model: Any) -> Any:
    """The modules of the decoder layers, in order; the model may be wrapped."""
    count = layers_of(model)
    decoder = getattr(model, "module", model).get_decoder()
    return next(
        one for one in decoder.modules() if isinstance(one, ModuleList) and len(one) == count
    )


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
    layers = decoder_layers(model)
    kept: list[Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    hook = layers[resolve_layer(layer, len(layers))].register_forward_hook(keep)
    try:
        with head_sees_only(model, torch.zeros_like(rows["labels"], dtype=torch.bool)):
            model(
                input_ids=rows["input_ids"],
                attention_mask=rows["attention_mask"],
                use_cache=False,
            )
    finally:
        hook.remove()
    states = kept[0]
    return states.float() if states.dtype.itemsize < 4 else states


def freeze_all_but_down(model: Any, layer: int) -> None:
    """Train only the matrix through which this layer's feed-forward writes, or its adapter.

    Raises:
        UsageError: the layer has no such single matrix (experts, or a model of no known family), or
            it has no adapter.
    """
    chosen = resolve_layer(layer, layers_of(model))
    found = _down_projections(model, chosen)
    if len(found) != 1:
        raise UsageError(
            f"this method trains the one down projection of a layer, and layer {chosen} of this"
            f" model has {len(found)} that are known",
            "choose another --method for a model with experts, or of no known family",
        )
    [(path, down)] = found.items()
    trained = {
        id(parameter)
        for name, parameter in down.named_parameters()
        if "lora_" in name or name.rpartition(".")[2] == "weight"
    }
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in trained)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(
            f"this method trains only {path}, which has no adapter",
            "give --lora-targets down, or leave --lora-rank out",
        )


def _down_projections(model: Any, layer: int) -> dict[str, Any]:
    """The modules through which a layer's feed-forwards write, by their names on disk."""
    try:
        family = family_of(getattr(model, "module", model).config.to_dict(), CONFIG_FILE)
    except BadModelError:
        return {}
    modules = dict(decoder_layers(model)[layer].named_modules())
    prefix = family.layers.format(i=layer)
    paths = [part.down for part in family.ffn if part.down in modules]
    return {f"{prefix}.{path}": modules[path] for path in paths}


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
