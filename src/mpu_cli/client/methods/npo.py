"""NPO: push forget rows below their reference probability, by a gradient that fades."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import batch_mean, batch_nll


@method(
    name="NPO",
    paper="https://arxiv.org/abs/2404.05868",
    formula="gamma * mean of -(2/beta) log sigmoid(beta (NLL - NLL_ref)) + alpha * retain loss",
    inputs={"forget_nll", "retain"},
    bounds={"beta": "> 0"},
    sources={
        "beta": "licong-lin/negative-preference-optimization, TOFU/config/forget.yaml: beta",
        "gamma": "licong-lin/negative-preference-optimization, TOFU/config/forget.yaml: npo_coeff",
        "alpha": (
            "licong-lin/negative-preference-optimization, TOFU/config/forget.yaml: grad_diff_coeff"
        ),
        "retain_loss": (
            "licong-lin/negative-preference-optimization, TOFU/config/forget.yaml: npo_grad_diff"
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
    """γ · batch mean of −(2/β) log σ(β (NLL − NLL_ref)) + α · retain loss, a scalar.

    Zhang et al. 2404.05868: log(π_θ/π_ref) = NLL_ref − NLL, both sums over a row's labelled tokens,
    (B,) in nats. The reference is the model before unlearning: a client's is the published copy.
    """
    nll, _ = batch_nll(model, batch["forget"])
    margin = nll - batch["reference"]["forget_nll"].to(nll)
    forget = batch_mean((-(2.0 / beta) * functional.logsigmoid(beta * margin)).sum(), len(margin))
    return with_retain(gamma * forget, model, batch, alpha, retain_loss)
