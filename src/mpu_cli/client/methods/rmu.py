"""RMU: steer forget rows' hidden states to a random direction, and keep those of retain rows."""

from __future__ import annotations

import math
import random
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.modeling.hidden import labelled_hidden, row_means
from mpu_cli.modeling.logprobs import batch_mean


@method(
    name="RMU",
    paper="https://arxiv.org/abs/2403.03218",
    formula=(
        "gamma * mean per token of |h_l(forget) - c u|^2 + alpha * mean per token of |h_l(retain) -"
        " h_l_ref(retain)|^2"
    ),
    inputs={"hidden", "retain", "retain_hidden"},
    bounds={"c": ">= 0", "seed": ">= 0"},
    sources={
        "c": (
            "open-unlearning, configs/trainer/RMU.yaml; the authors' centerforaisafety/wmdp could"
            " not be read"
        ),
        "layer": (
            "open-unlearning, configs/trainer/RMU.yaml: layer 7 of a 1B model's 16; the authors'"
            " could not be read"
        ),
        "gamma": "arXiv 2403.03218, section 4: no weight",
        "alpha": "open-unlearning, configs/trainer/RMU.yaml; the authors' could not be read",
        "seed": "ours: no other value is better",
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
    recommended_by=(
        "open-unlearning, configs/trainer/RMU.yaml and its TOFU default; the authors' repository"
        " could not be read"
    ),
)
def loss(
    model: Any,
    batch: Any,
    *,
    c: float = 2.0,
    layer: int = -1,
    gamma: float = 1.0,
    alpha: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """γ · mean of ‖h_l(f) − c·u‖² + α · mean of ‖h_l(r) − h_l^ref(r)‖², in squared activations.

    Li et al. 2403.03218: the mean over a row's tokens, here the labelled ones, then over rows.
    `layer` is counted from 0, and −1 is 7/16 of the depth (layer 7 of Llama-3.2-1B's 16). Like the
    paper, and unlike the published code (torch's mse_loss), mpu does not divide the squares by D: a
    c or alpha from such code keeps its meaning, the learning rate of a plain SGD does not. The
    paper trains three layers up to l only; here all layers up to l are trained, and those above get
    no gradient. The paper tunes c and alpha to the model (6.5 and 1200 for Zephyr-7B); two public
    forks of the authors' script start with 20 and 100 at layer 7 of 32.

    u depends on `seed` only, so it is the same for every copy. Copies differ in the order of heads
    and feed-forward units, but not in the residual stream, in which u is a direction.
    """
    hidden = labelled_hidden(model, batch["forget"], layer)
    target = c * torch.tensor(
        steering_vector(hidden.shape[1], seed), dtype=hidden.dtype, device=hidden.device
    )
    total = gamma * _mean_square(hidden - target, batch["forget"]["labels"])
    if alpha != 0:
        retain = labelled_hidden(model, batch["retain"], layer)
        difference = retain - batch["reference"]["retain_hidden"].to(retain)
        total = total + alpha * _mean_square(difference, batch["retain"]["labels"])
    return total


@lru_cache(maxsize=4)
def steering_vector(width: int, seed: int) -> tuple[float, ...]:
    """The paper's u: entries uniform in [0, 1), scaled to length 1, the same on every machine."""
    # Python guarantees that random() of a seeded generator never changes; torch does not.
    generator = random.Random(f"rmu/{seed}")  # noqa: S311 - no secret
    entries = [generator.random() for _ in range(width)]
    length = math.sqrt(math.fsum(entry * entry for entry in entries))
    return tuple(entry / length for entry in entries)


def _mean_square(difference: Tensor, labels: Tensor) -> Tensor:
    return batch_mean(row_means((difference * difference).sum(dim=1), labels).sum(), len(labels))
