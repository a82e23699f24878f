"""What `mpu perturb` was asked to do, checked against the documented ranges before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from mpu_cli.checkpoint.writer import DEFAULT_SHARD_BYTES
from mpu_cli.errors import UsageError
from mpu_cli.server.denoising import check_coefficients, default_coefficients

LARGEST = 1000
"""κ and c are shares; beyond this the copies are noise alone, and float32 overflows some way after."""


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
    train_embeddings: bool = False
    """The handoff freezes nothing: the client may train the embeddings, if it asks for that too."""

    def __post_init__(self) -> None:
        """Raise UsageError for what contradicts itself or the ranges."""
        if self.copies < 1:
            raise UsageError(f"--copies {self.copies}: at least one copy is needed")
        for flag, share in (("--kappa", self.kappa), ("--offset", self.offset)):
            if share is not None and not 0 <= share <= LARGEST:
                raise UsageError(
                    f"{flag} {share:g}: must be a share from 0 to {LARGEST}",
                    "0.1 is 10 % of the task vector",
                )
        if self.split and self.copies == 1:
            raise UsageError("--split needs at least two copies")
        if self.alphas is not None and self.denoising != "harmonic":
            raise UsageError(
                "--alphas belongs to --denoising harmonic; extrapolation takes --nodes"
            )
        if self.nodes is not None and self.denoising != "extrapolation":
            raise UsageError(
                "--nodes belongs to --denoising extrapolation; harmonic takes --alphas"
            )
        for flag, values in (("--alphas", self.alphas), ("--nodes", self.nodes)):
            if values is not None and len(values) != self.copies:
                raise UsageError(f"{flag}: {len(values)} values for {self.copies} copies")
        check_coefficients(
            self.denoising, self.given or default_coefficients(self.denoising, self.copies)
        )

    @property
    def given(self) -> tuple[float, ...] | None:
        """The α or nodes that were given, in copy order."""
        return self.alphas if self.denoising == "harmonic" else self.nodes


PAPER = {
    "reparam": "paper-rotation",
    "denoising": "harmonic",
    "kappa": 0.01,
    "copies": 2,
    "dtype": "bfloat16",
    "train_embeddings": True,
}
"""`--preset paper`: the authors' run (arXiv 2602.23798 and its scripts): docs/paper-protocol.md."""
