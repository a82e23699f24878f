"""The settings of `mpu audit trace`."""

from __future__ import annotations

from dataclasses import dataclass

from mpu_cli.errors import UsageError
from mpu_cli.option import Settings, option

SAMPLE, ALL = "sample", "all"
SAMPLED_ENTRIES = 1 << 18
"""Entries of each tensor that are read by default; no secret of a layer is larger."""


@dataclass(frozen=True, slots=True)
class TraceSettings(Settings):
    """How much is read, and how rarely an innocent model may be accused."""

    false_positive_rate: float = option(
        1e-6,
        "Probability that any copy at all is named although the model came from none.",
        panel="Method",
        above=0,
        most=0.5,
    )
    layers: str = option(
        SAMPLE,
        "Read N whole layers, or all weights; by default a sample of every layer, until decided.",
        metavar="N|all",
    )

    def __post_init__(self) -> None:
        """Refuse a number of layers that is none, beside what every settings class refuses."""
        Settings.__post_init__(self)
        is_count = self.layers.isascii() and self.layers.isdigit() and int(self.layers) > 0
        if self.layers not in {SAMPLE, ALL} and not is_count:
            raise UsageError(
                f"--layers {self.layers}: expected a whole number of layers, {SAMPLE} or {ALL}"
            )

    @property
    def entries(self) -> int | None:
        """Entries to read of each tensor; None for all."""
        return SAMPLED_ENTRIES if self.layers == SAMPLE else None

    @property
    def count(self) -> int | None:
        """Layers to read at most; None for all."""
        return None if self.layers in {SAMPLE, ALL} else int(self.layers)
