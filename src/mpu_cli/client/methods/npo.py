"""NPO: push forget rows below their reference probability, with a force that fades as they get there."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from mpu_cli.client.methods import method
from mpu_cli.training.logprobs import batch_nll, token_mean_nll


@method(
    name="NPO",
    paper="https://arxiv.org/abs/2404.05868",
    formula="gamma * mean of -(2/beta) log sigmoid(beta (NLL - NLL_ref)) + alpha * token-mean NLL(retain)",
    needs={"reference", "retain"},
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 0.1,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss: Literal["NLL"] = "NLL",
) -> Tensor:
    """γ · batch mean of −(2/β) log σ(β (NLL − NLL_ref)) + α · token mean of ℓ_t over retain, a scalar.

    Zhang et al. 2404.05868: log(π_θ/π_ref) = NLL_ref − NLL, both sums over a row's labelled tokens, (B,) in
    nats. The reference is the model before unlearning; for a client, the published copy itself. Two forward passes.
    """
    nll, _ = batch_nll(model, batch["forget"])
    margin = nll - batch["reference"]["forget_nll"].to(nll)
    total = gamma * (-(2.0 / beta) * functional.logsigmoid(beta * margin)).mean()
    if alpha != 0:
        total = total + alpha * token_mean_nll(model, batch["retain"])
    return total
