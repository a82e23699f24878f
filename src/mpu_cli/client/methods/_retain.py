"""The retain losses that methods share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpu_cli.modeling.logprobs import token_mean_kl, token_mean_nll


def with_retain(
    forget_term: Tensor, model: Any, batch: Any, alpha: float, retain_loss: str
) -> Tensor:
    """The forget term plus α times the retain loss, a scalar; at α = 0 no retain row is looked at.

    NLL is the token mean of ℓ_t over the retain rows; KL is KL(reference ‖ model) per labelled
    token, the reference being the model before unlearning (Maini et al. 2401.06121, "KL
    minimization"; they average over a row's prompt too, we over the answer, as in every other loss
    here).

    Forget and retain rows are two forward passes: padded on their own, no row's result depends on
    its partner's length.
    """
    if alpha == 0:
        return forget_term
    if retain_loss == "KL":
        return forget_term + alpha * token_mean_kl(
            model, batch["retain"], batch["reference"]["retain_logits"]
        )
    return forget_term + alpha * token_mean_nll(model, batch["retain"])
