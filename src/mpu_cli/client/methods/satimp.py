"""SatImp: gradient ascent on tokens that are neither forgotten nor certain."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import batch_mean, labelled_nll


@method(
    name="SatImp",
    paper="https://arxiv.org/abs/2505.11953",
    formula=(
        "-gamma * token mean of stopgrad(p_t^beta1 (1 - p_t)^beta2) (-log p_t) + alpha * retain"
        " loss"
    ),
    inputs={"retain"},
    bounds={"beta1": ">= 0", "beta2": ">= 0"},
    sources={
        "beta1": "tmlr-group/SatImp, README.md: hyper_param",
        "beta2": (
            "the first author's README in open-unlearning, for the paper's runs; tmlr-group/SatImp,"
            " README.md recommends 0.1"
        ),
        "gamma": (
            "tmlr-group/SatImp, dataloader/dataloader_sat.py (satimp_gd): no weight; the first"
            " author's README in open-unlearning"
        ),
        "alpha": (
            "tmlr-group/SatImp, config/forget_sat.yaml: coeff; the first author's README and class"
            " in open-unlearning"
        ),
        "retain_loss": "tmlr-group/SatImp, dataloader/dataloader_sat.py (satimp_gd)",
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
    recommended_by=(
        "tmlr-group/SatImp, config/forget_sat.yaml; the rate for Llama-2-7B is of the first"
        " author's README in open-unlearning"
    ),
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
    gamma: float = 1.0,
    alpha: float = 0.1,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """−γ · token mean of w_t ℓ_t + α · retain loss, a scalar in nats per token.

    Yang et al. 2505.11953: w_t = p_t^β1 (1 − p_t)^β2 without gradient, saturation (β1) and
    importance (β2). The w_t are small, so the forget loss needs ten times the retain loss's weight;
    open-unlearning's YAML swaps the two, and then hardly anything is forgotten.
    """
    nll = labelled_nll(model, batch["forget"])
    p = (-nll).exp().detach()
    weight = p**beta1 * (1 - p) ** beta2
    return with_retain(
        -gamma * batch_mean((weight * nll).sum(), len(nll)), model, batch, alpha, retain_loss
    )
