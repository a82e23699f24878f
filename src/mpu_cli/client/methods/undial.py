"""UnDIAL: learn the model's own earlier predictions with the forgotten token's logit lowered."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from mpu_cli.client.methods import method
from mpu_cli.client.methods._retain import with_retain
from mpu_cli.modeling.logprobs import batch_mean, labelled_predictions


@method(
    name="UnDIAL",
    paper="https://arxiv.org/abs/2402.10052",
    formula=(
        "gamma * token mean of cross entropy(softmax(z_ref - beta onehot(y_t)), model) + alpha *"
        " retain loss"
    ),
    inputs={"forget_logits"},
    bounds={"beta": "> 0"},
    sources={
        "beta": (
            "the first author's trainer config in open-unlearning (his README: 3, 10 or 30);"
            " dong-river/LLM_unlearning, main.py: 5"
        ),
        "gamma": "dong-river/LLM_unlearning, utils/ft_utils.py (DITrainer): no weight",
        "alpha": "dong-river/LLM_unlearning, utils/ft_utils.py (DITrainer): no retain set",
        "retain_loss": "no effect at alpha 0; the first author's trainer config in open-unlearning",
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 1e-4,
        "epochs": 10,
        "batch_size": 8,
        "gradient_accumulation": 4,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
    },
    recommended_by=(
        "the first author's trainer config in open-unlearning and its TOFU default; the paper with"
        " LoRA of rank 8, alpha 16"
    ),
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 10.0,
    gamma: float = 1.0,
    alpha: float = 0.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """γ · token mean of H(softmax(z_ref − β·onehot(y_t)), p_θ) + α · retain loss, nats per token.

    Dong et al. 2402.10052: β is the paper's strength γ, z_ref (N, V) the logits before unlearning.
    As in the paper, the mean is over the tokens of the text to be forgotten, the labelled ones;
    open-unlearning's code averages over every position, including prompt and padding. The paper
    uses no retain set, so α = 0, and LoRA of rank 8 at the recommended learning rate.
    """
    logits, targets = labelled_predictions(model, batch["forget"])
    teacher = batch["reference"]["forget_logits"].to(logits, copy=True)
    teacher[range(len(targets)), targets] -= beta
    entropy = functional.cross_entropy(logits, teacher.softmax(-1), reduction="sum")
    return with_retain(gamma * batch_mean(entropy, len(targets)), model, batch, alpha, retain_loss)
