"""DPO: prefer another answer, usually a refusal, to the answer that must be forgotten."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._preference import preference_loss
from mpu_cli.client.methods._retain import with_retain


@method(
    name="DPO",
    paper="https://arxiv.org/abs/2305.18290",
    formula=(
        "gamma * mean of -(2/beta) log sigmoid(beta [(NLL_ref - NLL)(alternate) - (NLL_ref -"
        " NLL)(forget)]) + alpha * retain loss"
    ),
    inputs={"alternate", "alternate_nll", "forget_nll", "retain"},
    bounds={"beta": "> 0"},
    sources={
        "beta": (
            "locuslab/tofu, dataloader.py (dpo); licong-lin/negative-preference-optimization,"
            " TOFU/config/forget.yaml"
        ),
        "gamma": (
            "licong-lin/negative-preference-optimization, TOFU/dataloader.py (dpo_grad_diff): no"
            " weight"
        ),
        "alpha": (
            "licong-lin/negative-preference-optimization, TOFU/dataloader.py (dpo_grad_diff): no"
            " weight; none in locuslab/tofu"
        ),
        "retain_loss": (
            "licong-lin/negative-preference-optimization, TOFU/dataloader.py (dpo_grad_diff)"
        ),
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "epochs": 10,
        "batch_size": 8,
        "gradient_accumulation": 4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
    },
    recommended_by="licong-lin/negative-preference-optimization, TOFU/config/forget.yaml, two GPUs",
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 0.1,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """γ · `preference_loss` + α · retain loss, a scalar.

    Rafailov et al. 2305.18290, as unlearning uses it ("IdkDPO" after Maini et al. 2401.06121).
    Their equation 7 lacks the factor 2/β. It is NPO's (Zhang et al. 2404.05868), makes the initial
    gradient independent of β, and all unlearning code has it, so the published γ and α assume it.
    """
    return with_retain(
        gamma * preference_loss(model, batch, beta), model, batch, alpha, retain_loss
    )
