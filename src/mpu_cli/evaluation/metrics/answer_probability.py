"""Answer probability: exp(−mean NLL of the answer's tokens), averaged over rows (TOFU, arXiv 2401.06121, section 2.2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpu_cli.data.rows import Row
from mpu_cli.evaluation.answers import BATCH, MAX_LENGTH, answer_likelihoods
from mpu_cli.training.logprobs import mean_probability


def answer_probabilities(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int = MAX_LENGTH, batch_size: int = BATCH
) -> list[float]:
    """Mean answer probability of a model on each set of rows, between 0 and 1; the model is loaded once."""
    likelihoods = answer_likelihoods(model, sets, max_length, batch_size)
    return [mean_probability(rows) for rows in likelihoods]
