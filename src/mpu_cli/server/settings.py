"""What `mpu perturb` was asked to do, checked against the documented ranges before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from mpu_cli.checkpoint.writer import DEFAULT_SHARD_BYTES
from mpu_cli.errors import UsageError
from mpu_cli.server.denoise import check_coefficients, default_coefficients


@dataclass(frozen=True, slots=True)
class PerturbSettings:
    """The options of `mpu perturb` (design, section 4)."""

    copies: int = 3
    kappa: float = 0.1
    denoising: str = "harmonic"
    alphas: tuple[float, ...] | None = None
    """In copy order; None deals the defaults in a secret order."""
    nodes: tuple[float, ...] | None = None
    offset: float | None = None
    """c; None keeps what the lineage has frozen (0 at its first perturb)."""
    split: bool = False
    reparam: str = "signed-permutation"
    noise_relative_to: str | None = None
    """task-vector or weights; None takes the task vector where there is a base."""
    scope: str = "layers"
    dtype: str = "auto"
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    check: str = "sample"
    client: str = ""
    fork: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for what contradicts itself or the ranges."""
        if self.copies < 1:
            raise UsageError(f"--copies {self.copies}: at least one copy is needed")
        if not self.kappa >= 0 or not isfinite(self.kappa):
            raise UsageError(f"--kappa {self.kappa:g}: must be zero or more")
        if self.offset is not None and (not self.offset >= 0 or not isfinite(self.offset)):
            raise UsageError(f"--offset {self.offset:g}: must be zero or more")
        if self.split and self.copies == 1:
            raise UsageError("--split needs at least two copies")
        if self.alphas is not None and self.denoising != "harmonic":
            raise UsageError("--alphas belongs to --denoising harmonic; extrapolation takes --nodes")
        if self.nodes is not None and self.denoising != "extrapolation":
            raise UsageError("--nodes belongs to --denoising extrapolation; harmonic takes --alphas")
        for flag, values in (("--alphas", self.alphas), ("--nodes", self.nodes)):
            if values is not None and len(values) != self.copies:
                raise UsageError(f"{flag}: {len(values)} values for {self.copies} copies")
        check_coefficients(self.denoising, self.given or default_coefficients(self.denoising, self.copies))

    @property
    def given(self) -> tuple[float, ...] | None:
        """The α or nodes that were given, in copy order."""
        return self.alphas if self.denoising == "harmonic" else self.nodes


PAPER = {"reparam": "rotation", "denoising": "harmonic", "kappa": 0.01, "copies": 2}
"""`--preset paper`: the authors' run (arXiv 2602.23798 and its scripts)."""
