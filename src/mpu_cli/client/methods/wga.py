"""WGA: gradient ascent, weaker on tokens that the model no longer expects."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import batch_mean, labelled_nll


@method(
    name="WGA",
    paper="https://arxiv.org/abs/2502.19301",
    formula="-gamma * token mean of stopgrad(p_t^beta) (-log p_t) + alpha * retain loss",
    inputs={"retain"},
    bounds={"beta": ">= 0"},
    sources={
        "beta": (
            "the authors' group, community/methods/WGA/README.md in open-unlearning;"
            " tmlr-group/G-effect falls back to 5"
        ),
        "gamma": "tmlr-group/G-effect, dataloader.py (wga): no weight",
        "alpha": (
            "tmlr-group/G-effect, dataloader.py (wga_kl): no weight; its plain wga has no retain"
            " loss"
        ),
        "retain_loss": "open-unlearning, configs/trainer/WGA.yaml; tmlr-group/G-effect has KL",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "epochs": 5,
        "batch_size": 4,
        "gradient_accumulation": 4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.2,
        "weight_decay": 0,
    },
    recommended_by="tmlr-group/G-effect, config/forget.yaml, Llama-2-7B of basher1.py",
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """−γ · token mean of w_t ℓ_t + α · retain loss, a scalar in nats per token.

    Wang et al. 2502.19301: w_t = p_t^β without gradient; β is the paper's α. The paper sums over a
    row's tokens; its code and mpu take the mean over the batch's tokens, which the published
    learning rates assume.
    """
    nll = labelled_nll(model, batch["forget"])
    weight = (-beta * nll).exp().detach()
    return with_retain(
        -gamma * batch_mean((weight * nll).sum(), len(nll)), model, batch, alpha, retain_loss
    )
