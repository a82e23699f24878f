"""CE-U: learn what the model would predict if the forgotten token did not exist."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mpu_cli.client.methods import method
from mpu_cli.data.templates import IGNORED
from mpu_cli.modeling.logprobs import batch_mean, labelled_predictions


@method(
    name="CE-U",
    paper="https://arxiv.org/abs/2503.01224",
    formula="gamma * token mean of cross entropy(softmax(z with z_y = -inf), model)",
    bounds={"ignore_first": ">= 0"},
    sources={
        "gamma": "CE-U/open-unlearning, src/trainer/unlearn/ceu.py: no weight",
        "ignore_first": "CE-U/open-unlearning, configs/trainer/CEU.yaml",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-5,
        "epochs": 10,
        "batch_size": 16,
        "gradient_accumulation": 2,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
    },
    recommended_by=(
        "open-unlearning, community/methods/CEU/run.sh and its TOFU default; the author's own"
        " repository has no script"
    ),
)
def loss(model: Any, batch: Any, *, gamma: float = 1.0, ignore_first: int = 1) -> Tensor:
    """γ · token mean of H(q, p_θ), a scalar in nats per token, without retain set or reference.

    Yang 2503.01224: q is the softmax of the model's own logits, without gradient, with the true
    token's logit at −∞. The first `ignore_first` predicted tokens of each answer do not count (a
    footnote to the paper's training settings), because many answers begin alike. A batch without
    any other token has loss 0.
    """
    rows = batch["forget"]
    targets = rows["labels"][:, 1:]
    counted = targets != IGNORED
    # The rank of each labelled token in its row, in the order of labelled_predictions.
    rank = counted.cumsum(dim=1)[counted]
    logits, tokens = labelled_predictions(model, rows)
    logits, tokens = logits[rank > ignore_first], tokens[rank > ignore_first]
    target = logits.detach().scatter(1, tokens[:, None], -torch.inf).softmax(-1)
    return gamma * batch_mean(
        functional.cross_entropy(logits, target, reduction="sum"), len(tokens)
    )
