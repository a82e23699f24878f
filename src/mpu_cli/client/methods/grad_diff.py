"""GradDiff: raise the loss on the forget set while lowering it on the retain set."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import token_mean_nll


@method(
    name="GradDiff",
    paper="https://arxiv.org/abs/2203.12817",
    formula="-gamma * token-mean NLL(forget) + alpha * retain loss",
    inputs={"retain"},
    sources={
        "gamma": "locuslab/tofu, dataloader.py (grad_diff): no weight",
        "alpha": "locuslab/tofu, dataloader.py (grad_diff): no weight",
        "retain_loss": "locuslab/tofu, dataloader.py (grad_diff)",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "epochs": 5,
        "batch_size": 8,
        "gradient_accumulation": 4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.2,
        "weight_decay": 0.01,
    },
    recommended_by="locuslab/tofu, README and config/forget.yaml",
)
def loss(
    model: Any,
    batch: Any,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """−γ · token mean of ℓ_t over forget + α · retain loss, a scalar in nats per token.

    Liu et al. 2203.12817; this form is that of Maini et al. 2401.06121 ("gradient difference", with
    KL "KL minimization").
    """
    return with_retain(
        -gamma * token_mean_nll(model, batch["forget"]), model, batch, alpha, retain_loss
    )
