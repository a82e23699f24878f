"""The options of `mpu aggregate`, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from mpu_cli.checkpoint.writer import DEFAULT_SHARD_BYTES
from mpu_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class AggregateSettings:
    """The options of `mpu aggregate`."""

    server_lr: float = 1.0
    missing: str = "refuse"
    min_agreement: float = 0.15
    max_relative_norm: float = 0.5
    fork: bool = False
    dtype: str = "auto"
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    disclose: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for values outside the ranges."""
        if not 0 < self.server_lr < float("inf"):
            raise UsageError(f"--server-lr {self.server_lr:g}: must be a positive number")
        if not -1 <= self.min_agreement <= 1:
            raise UsageError(
                f"--min-agreement {self.min_agreement:g}: a cosine lies between -1 and 1"
            )
        if not self.max_relative_norm > 0:
            raise UsageError(f"--max-relative-norm {self.max_relative_norm:g}: must be positive")
