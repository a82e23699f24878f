"""AltPO: prefer a plausible alternate answer to the answer that must be forgotten."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from mpu_cli.client.methods import method
from mpu_cli.client.methods._preference import preference_loss
from mpu_cli.client.methods._retain import with_retain


@method(
    name="AltPO",
    paper="https://arxiv.org/abs/2409.13474",
    formula="DPO's, with generated plausible answers as alternates",
    inputs={"alternate", "alternate_nll", "forget_nll", "retain"},
    bounds={"beta": "> 0"},
    sources={
        "beta": "molereddy/Alternate-Preference-Optimization, README.md (AltPO)",
        "gamma": "molereddy/Alternate-Preference-Optimization, dataloader.py (dpo): no weight",
        "alpha": "molereddy/Alternate-Preference-Optimization, README.md (AltPO): retain_wt",
        "retain_loss": (
            "molereddy/Alternate-Preference-Optimization, config/unlearn_llama2.yaml: retain_type"
        ),
    },
    recommended={
        "optimizer": "adamw",
        "learning_rate": 5e-5,
        "epochs": 2,
        "batch_size": 5,
        "gradient_accumulation": 7,
        "lr_scheduler": "linear",
        "warmup_ratio": 0.5,
        "weight_decay": 0.01,
    },
    recommended_by=(
        "molereddy/Alternate-Preference-Optimization, README.md and config/unlearn_llama2.yaml,"
        " five alternates a question"
    ),
)
def loss(
    model: Any,
    batch: Any,
    *,
    beta: float = 0.1,
    gamma: float = 1.0,
    alpha: float = 1.0,
    retain_loss: Literal["NLL", "KL"] = "NLL",
) -> Tensor:
    """γ · `preference_loss` + α · retain loss, a scalar.

    Mekala et al. 2409.13474. Only the data differ from DPO's: the alternates are wrong but
    plausible answers of the same kind, which the user generates and puts into the rows. For several
    alternates to one question (the paper's better setting), repeat the row in the forget file with
    another `alternate` each time.
    """
    return with_retain(
        gamma * preference_loss(model, batch, beta), model, batch, alpha, retain_loss
    )
