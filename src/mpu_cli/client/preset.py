"""`--preset paper`: the settings in the code of MPU's authors (arXiv 2602.23798).

docs/paper-protocol.md compares them with ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mpu_cli.client.methods import MethodInfo
from mpu_cli.errors import UsageError

SETTINGS: dict[str, Any] = {
    "optimizer": "adamw",
    "learning_rate": 1e-5,
    "lr_scheduler": "constant",
    "weight_decay": 0.01,
    "decay_all": True,
    "max_grad_norm": 1.0,
    "batch_size": 8,
    "gradient_accumulation": 4,
    "partial_step": "share",
    "precision": "pure-bfloat16",
    "train_embeddings": True,
    "order_per_copy": True,
    "draws": "independent",
    "redraw_refusals": True,
    "join_texts": True,
}
"""Settings of every method, by the names of TrainingSettings."""
TEXT_LENGTH = 2048
"""Tokens in a chunk of joined plain texts; the authors cut no question-and-answer row."""
PROMPTING = {"system": "You are a helpful assistant.", "date": "2025-04-10"}
"""Settings of the prompts for a tokenizer with a chat template, by the names of Prompting."""
ROUNDS_AND_EPOCHS = {
    "GradAscent": (1, 10),
    "GradDiff": (1, 10),
    "UnDIAL": (1, 10),
    "NPO": (2, 5),
    "WGA": (2, 5),
    "SimNPO": (10, 1),
    "DPO": (10, 1),
    "SatImp": (10, 1),
}
"""Rounds with the server, and epochs in each round."""
_WEIGHTS = {"gamma": 1.0, "alpha": 1.0}
"""Forget and retain weights of every method; SimNPO, SatImp and UnDIAL publish others."""


def paper(method: MethodInfo, assignments: Iterable[str]) -> tuple[dict[str, Any], list[str], int]:
    """Training settings, the method's parameters as `--set` assignments, and the number of rounds.

    Args:
        method: the unlearning method.
        assignments: the user's own `--set`, which win.

    Raises:
        UsageError: the authors did not run this method.
    """
    if method.name not in ROUNDS_AND_EPOCHS:
        known = ", ".join(sorted(ROUNDS_AND_EPOCHS, key=str.lower))
        raise UsageError(
            f"--preset paper: the paper does not use {method.name}", f"it uses {known}"
        )
    rounds, epochs = ROUNDS_AND_EPOCHS[method.name]
    given = list(assignments)
    named = {assignment.partition("=")[0].strip() for assignment in given}
    own = {parameter.name for parameter in method.parameters}
    weights = [f"{name}={value:g}" for name, value in _WEIGHTS.items() if name in own - named]
    return {**SETTINGS, "epochs": epochs}, [*weights, *given], rounds
