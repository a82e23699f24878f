"""SimNPO: NPO without a reference, on the mean loss of each row instead of the sum."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import batch_mean, batch_nll


@method(
    name="SimNPO",
    paper="https://arxiv.org/abs/2410.07163",
    formula=(
        "gamma * mean of -(2/beta) log sigmoid(beta NLL / tokens - delta) + alpha * retain loss"
    ),
    inputs={"retain"},
    bounds={"beta": "> 0"},
    sources={
        "beta": "OPTML-Group/Unlearn-Simple, TOFU/README.md, forget10 (2.5 for forget05)",
        "delta": "OPTML-Group/Unlearn-Simple, TOFU/config/forget.yaml: gamma",
        "gamma": (
            "OPTML-Group/Unlearn-Simple, TOFU/README.md, forget10: npo_coeff (0.1375 for forget05)"
        ),
        "alpha": "OPTML-Group/Unlearn-Simple, TOFU/config/forget.yaml: grad_diff_coeff",
        "retain_loss": "OPTML-Group/Unlearn-Simple, TOFU/config/forget.yaml: simnpo_grad_diff",
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
    recommended_by="OPTML-Group/Unlearn-Simple, TOFU/config/forget.yaml, eight GPUs",
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 4.5,
    delta: float = 0.0,
    gamma: float = 0.125,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """γ · batch mean of −(2/β) log σ(β NLL/|y| − δ) + α · retain loss, a scalar.

    Fan et al. 2410.07163: |y| is the number of a row's labelled tokens, δ is the paper's reward
    margin γ. In the paper the margin is not multiplied by β; in the authors' code and in
    open-unlearning it is (no difference at the default 0).
    """
    nll, tokens = batch_nll(model, batch["forget"])
    forget = batch_mean(
        (-(2.0 / beta) * functional.logsigmoid(beta * nll / tokens - delta)).sum(), len(nll)
    )
    return with_retain(gamma * forget, model, batch, alpha, retain_loss)
