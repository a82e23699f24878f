"""GradDiff: raise the loss on the forget set while lowering it on the retain set."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.training.logprobs import token_mean_nll


@method(
    name="GradDiff",
    paper="https://arxiv.org/abs/2203.12817",
    formula="-gamma * token-mean NLL(forget) + alpha * token-mean NLL(retain)",
    needs={"retain"},
)
def loss(
    model: Any, batch: Any, *, gamma: float = 1.0, alpha: float = 1.0, retain_loss: Literal["NLL"] = "NLL"
) -> Tensor:
    """−γ · token mean of ℓ_t over forget + α · token mean over retain, a scalar in nats per token.

    Liu et al. 2203.12817; in this form Maini et al. 2401.06121 ("gradient difference"). Forget and retain
    rows are two forward passes: padded on their own, no row's result depends on how long its partner is.
    """
    total = -gamma * token_mean_nll(model, batch["forget"])
    if alpha != 0:
        total = total + alpha * token_mean_nll(model, batch["retain"])
    return total
