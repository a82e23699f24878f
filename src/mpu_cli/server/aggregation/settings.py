"""The settings of `mpu aggregate`."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

from mpu_cli.checkpoint.settings import StorageSettings
from mpu_cli.option import option


@dataclass(frozen=True, slots=True)
class AggregateSettings(StorageSettings):
    """How updates become a new model.

    Raises:
        UsageError: a value is out of range.
    """

    server_lr: float = option(
        1.0, "Share η of the aggregated update to apply.", panel="Method", above=0
    )
    missing: Literal["refuse", "reweight"] = option(
        "refuse", "What to do if copies are missing. With reweight some noise stays in the result."
    )
    min_agreement: float = option(
        0.15, "Smallest cosine between the changes of two copies.", least=-1, most=1
    )
    max_relative_norm: float = option(
        0.5, "Largest norm of the update, relative to the model's.", above=0, most=inf
    )
    max_tensor_norm: float = option(
        0.5,
        "Largest norm of the update of one tensor, relative to the tensor's.",
        above=0,
        most=inf,
    )
    max_row_norm: float = option(
        1.0,
        "Largest change of one row of a matrix, relative to the norm of the matrix's mean row.",
        above=0,
        most=inf,
    )
    max_copy_ratio: float = option(
        3.0,
        "Largest ratio of the norms of two copies' changes, of all tensors and of each.",
        least=1,
        most=inf,
    )
    max_agreement_drop: float = option(
        0.5,
        "How far the cosine of two copies' changes of one tensor may be below that of all others.",
        above=0,
        most=inf,
    )
    fork: bool = option(
        False, "Use a model that a newer accepted model has replaced.", panel="Model"
    )
    disclose: bool = option(
        False, "Describe in the model card how the copies were made.", panel="Output"
    )
