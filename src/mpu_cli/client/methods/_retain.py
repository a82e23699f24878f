"""The retain losses that methods share."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpu_cli.modeling.logprobs import token_mean_kl, token_mean_nll


def with_retain(
    forget_term: Tensor, model: Any, batch: Any, alpha: float, retain_loss: str
) -> Tensor:
    """The forget term plus α times the retain loss, a scalar; at α = 0 no retain row is read.

    NLL is the token mean of ℓ_t over the retain rows. KL is KL(reference ‖ model) per labelled
    token, where the reference is the model before unlearning (Maini et al. 2401.06121, "KL
    minimization"; they average over a row's prompt too, mpu over the answer only, as in every
    loss).

    Forget and retain rows take two forward passes and are padded separately, so no row's result
    depends on the length of its partner.
    """
    if alpha == 0:
        return forget_term
    return forget_term + retain_term(model, batch, alpha, retain_loss)


def retain_term(model: Any, batch: Any, alpha: float, retain_loss: str) -> Tensor:
    """α times the retain loss alone, a scalar; see `with_retain`."""
    if retain_loss == "KL":
        return alpha * token_mean_kl(model, batch["retain"], batch["reference"]["retain_logits"])
    return alpha * token_mean_nll(model, batch["retain"])
