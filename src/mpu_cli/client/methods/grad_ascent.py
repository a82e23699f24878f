"""GradAscent: raise the loss on the forget set, without a retain set."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.modeling.logprobs import token_mean_nll


@method(
    name="GradAscent",
    paper="https://arxiv.org/abs/2210.01504",
    formula="-gamma * mean over forget tokens of -log p(y_t | y_<t)",
    sources={
        "gamma": "locuslab/tofu, dataloader.py (grad_ascent): no weight",
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
def loss(model: Any, batch: Any, *, gamma: float = 1.0) -> Tensor:
    """−γ · token mean of ℓ_t, a scalar in nats per token (Jang et al. 2210.01504).

    It is unbounded below: training never converges, and a long run makes the model collapse.
    """
    return -gamma * token_mean_nll(model, batch["forget"])
