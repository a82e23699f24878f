"""The preference loss of DPO and AltPO: one answer is preferred to another, given a reference."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from mpu_cli.modeling.logprobs import batch_mean, batch_nll


def preference_loss(model: Any, batch: Any, beta: float) -> Tensor:
    """Batch mean of −(2/β) log σ(β [log π/π_ref(alternate) − log π/π_ref(forget)]), in nats.

    log π/π_ref = NLL_ref − NLL, sums over a row's labelled tokens, (B,).
    """
    preferred, _ = batch_nll(model, batch["alternate"])
    refused, _ = batch_nll(model, batch["forget"])
    reference = batch["reference"]
    gain = reference["alternate_nll"].to(preferred) - preferred
    loss = reference["forget_nll"].to(refused) - refused
    return batch_mean(
        (-(2.0 / beta) * functional.logsigmoid(beta * (gain - loss))).sum(), len(gain)
    )
