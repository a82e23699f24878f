"""LUNAR: redirect forget prompts to where the model's states of unanswerable questions lie."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.modeling.hidden import prompt_hidden
from mpu_cli.modeling.logprobs import batch_mean


@method(
    name="LUNAR",
    paper="https://arxiv.org/abs/2502.07218",
    formula=(
        "gamma * mean over prompt tokens of |h_l(forget) - h_l_ref(forget) - c r|^2 / D + alpha *"
        " the same of |h_l(retain) - h_l_ref(retain)|^2 / D; r = mean h_l_ref(unanswerable) - mean"
        " h_l_ref(forget) at the prompts' last tokens"
    ),
    inputs={
        "hidden",
        "hidden_down",
        "direction",
        "forget_prompt_hidden",
        "retain",
        "retain_prompt_hidden",
    },
    bounds={"c": "> 0"},
    sources={
        "c": "facebookresearch/LUNAR, config/forget.yaml: coeff_list",
        "layer": (
            "facebookresearch/LUNAR, config/forget.yaml: layer_modified, 22 of Llama-3-8B's 32"
        ),
        "gamma": "facebookresearch/LUNAR, src/estimated_net_utils.py: no weight",
        "alpha": "facebookresearch/LUNAR, src/estimated_net_utils.py: no weight",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-2,
        "epochs": 20,
        "weight_decay": 0.01,
    },
    recommended_by=(
        "facebookresearch/LUNAR, config/forget.yaml and run_lunar.py; batches of 64 tokens, the"
        " rate times 0.9 after each epoch"
    ),
)
def loss(
    model: Any,
    batch: Any,
    *,
    c: float = 2.0,
    layer: int = -2,
    gamma: float = 1.0,
    alpha: float = 1.0,
) -> Tensor:
    """γ · MSE(h_l(f), h_l^ref(f) + c·r) + α · MSE(h_l(r), h_l^ref(r)), in squared activations.

    Shen et al. 2502.07218, as in facebookresearch/LUNAR, src/dataset_utils.py and
    src/generate_directions.py: r (D,) is the mean state of reference questions, which the model
    refuses or cannot answer, minus that of the forget questions, both after layer l at the last
    token before the answer. States are those of every token of a prompt; answers are not read.
    `layer` is counted from 0, and −2 is 11/16 of the depth (layer 22 of Llama-3-8B's 32).

    As in the paper, nothing but the down projection of layer l is trained, so its inputs stay what
    they were. The authors' code pools forget and retain tokens, in mean squares over the D entries;
    here each set has its own mean, and its weight. They may change several layers; here it is one.
    """
    reference = batch["reference"]
    states = prompt_hidden(model, batch["forget"], layer)
    target = reference["forget_prompt_hidden"].to(states) + c * reference["direction"].to(states)
    total = gamma * _mean_square(states - target)
    if alpha != 0:
        kept = prompt_hidden(model, batch["retain"], layer)
        total = total + alpha * _mean_square(kept - reference["retain_prompt_hidden"].to(kept))
    return total


def _mean_square(difference: Tensor) -> Tensor:
    return batch_mean((difference * difference).mean(dim=1).sum(), len(difference))
