"""What a loss may ask for beside the forget rows: the words, without importing torch.

A reference is something the model said before its first step (for a client: the published copy
itself). It is computed once, so no second model is ever in memory; see `training/reference.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

LOSS_INPUTS = {
    "retain": "a retain set, whose rows are in the batch",
    "alternate": "another answer to each forget row, in the batch",
    "hidden": "hidden states at one layer; what lies above it is not trained",
    "forget_nll": "reference: NLL of each forget row",
    "alternate_nll": "reference: NLL of each alternate answer",
    "forget_logits": (
        "reference: logits over the whole vocabulary at every labelled token of the forget rows"
    ),
    "retain_logits": "reference: the same of the retain rows",
    "retain_hidden": (
        "reference: hidden states at that layer at every labelled token of the retain rows"
    ),
}
"""Every word with its meaning. In the batch a reference is `batch["reference"][word]`.

"hidden" may carry the layer's number, "hidden:7"; see `modeling/hidden.py` for how layers are counted.
"""

_HIDDEN = "hidden"


def with_layer(inputs: Iterable[str], layer: int) -> frozenset[str]:
    """The inputs, with the layer written behind "hidden"."""
    return frozenset(f"{_HIDDEN}:{layer}" if name == _HIDDEN else name for name in inputs)


def hidden_layer(inputs: Iterable[str]) -> int | None:
    """The layer whose hidden states the loss reads, -1 where none is named.

    None if it reads none.
    """
    for name in inputs:
        word, _, layer = name.partition(":")
        if word == _HIDDEN:
            return int(layer or -1)
    return None
