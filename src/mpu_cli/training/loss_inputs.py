"""What a loss may read besides the forget rows, by name; this module does not import torch.

A reference is what the model said before its first step: a client's model is the published copy. It
is computed once, so no second model stays in memory; see `training/reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

LOSS_INPUTS = {
    "retain": "a retain set, whose rows are in the batch",
    "alternate": "another answer to each forget row, in the batch",
    "hidden": "hidden states at one layer; the layers above it are not trained",
    "hidden_down": "of the layers up to that one, only its own down projection is trained",
    "forget_nll": "reference: NLL of each forget row",
    "alternate_nll": "reference: NLL of each alternate answer",
    "forget_logits": (
        "reference: logits over the whole vocabulary at every labelled token of the forget rows"
    ),
    "retain_logits": "reference: the same for the retain rows",
    "retain_hidden": (
        "reference: hidden states at that layer at every labelled token of the retain rows"
    ),
    "forget_prompt_hidden": "reference: the same at every token of the forget rows' prompts",
    "retain_prompt_hidden": "reference: the same at every token of the retain rows' prompts",
    "direction": (
        "reference: at that layer and a prompt's last token, the mean state of unanswerable"
        " questions minus that of the forget rows"
    ),
}
"""Each input with its meaning; a batch has a reference as `batch["reference"][name]`.

"hidden" may carry a layer, "hidden:7"; `modeling/hidden.py` explains how layers are counted.
"""

_HIDDEN = "hidden"


def with_layer(inputs: Iterable[str], layer: int) -> frozenset[str]:
    """The inputs, with the layer appended to "hidden"."""
    return frozenset(f"{_HIDDEN}:{layer}" if name == _HIDDEN else name for name in inputs)


def hidden_layer(inputs: Iterable[str]) -> int | None:
    """The layer whose hidden states the loss reads, -1 without a number; None if it reads none."""
    for name in inputs:
        word, _, layer = name.partition(":")
        if word == _HIDDEN:
            return int(layer or -1)
    return None
