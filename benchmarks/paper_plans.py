"""The plans of examples/paper-table that the paper's page reads: shared, not a benchmark."""

from __future__ import annotations

from collections.abc import Mapping

from paper_runs import Table

PLANS: Mapping[str, str] = {
    "paper": "as the paper does it: AdamW, harmonic denoising, rotation",
    "ours": "as we would: Adafactor, extrapolation (one copy: plain noise), signed permutation",
    "side": "one change at a time: reparameterization and offset",
    "denoising": "harmonic denoising and extrapolation, larger noise; AdamW, Adafactor and Muon",
    "smollm2": "SmolLM2-135M-Instruct on TOFU rows, κ = c",
}
Tables = Mapping[str, Table]
"""The results that are there, by the plan's name."""


def title(plan: str) -> str:
    """What a plan runs, as the beginning of a sentence."""
    return PLANS[plan][0].upper() + PLANS[plan][1:]
