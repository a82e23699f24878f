"""SatImp: gradient ascent on the tokens that are neither forgotten yet nor certain."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.training.logprobs import batch_mean, labelled_nll


@method(
    name="SatImp",
    paper="https://arxiv.org/abs/2505.11953",
    formula="-gamma * token mean of stopgrad(p_t^beta1 (1 - p_t)^beta2) (-log p_t) + alpha * retain loss",
    needs={"retain"},
    bounds={"beta1": ">= 0", "beta2": ">= 0"},
    recommended={"learning_rate": 1e-5, "epochs": 5, "batch_size": 8, "gradient_accumulation": 4},
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
    gamma: float = 0.1,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """−γ · token mean of w_t ℓ_t + α · retain loss, w_t = p_t^β1 (1 − p_t)^β2 without gradient, nats per token.

    Yang et al. 2505.11953: saturation (β1) and importance (β2).
    """
    nll = labelled_nll(model, batch["forget"])
    p = (-nll).exp().detach()
    weight = p**beta1 * (1 - p) ** beta2
    return with_retain(-gamma * batch_mean((weight * nll).sum(), len(nll)), model, batch, alpha, retain_loss)
