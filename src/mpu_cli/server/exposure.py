"""What a holder of given copies is left not knowing, in units of the noise's reference (task vector or weights).

Conditions: the holder undoes T against the public base, finds every scalar of the draw (both were measured to be
possible), and the task vector has no structure to exploit. It is an estimate of what the known attacks leave, not a
bound; `mpu audit` measures it on real files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import hypot, sqrt

from mpu_cli.server.denoise import error_order
from mpu_cli.server.records import HandoffRecord


@dataclass(frozen=True, slots=True)
class Exposure:
    """`one_copy`: the best-known copy alone; `all_copies`: all of this draw together; `order`: the update's error."""

    one_copy: float
    all_copies: float
    order: int

    def content(self) -> dict[str, float]:
        """As stored in a handoff record."""
        return {"one_copy": self.one_copy, "all_copies": self.all_copies, "order": float(self.order)}


def exposure(denoising: str, kappa: float, coefficients: Sequence[float], offset: float) -> Exposure:
    """The exposure of one draw: a copy leaves κ·|α_k| ⊕ c unknown, all copies together leave c."""
    one = hypot(kappa * min(abs(value) for value in coefficients), offset)
    pooled = one if len(coefficients) == 1 else offset
    return Exposure(one, pooled, error_order(denoising, len(coefficients), offset=offset > 0))


def advice(
    denoising: str, kappa: float, coefficients: Sequence[float], offset: float, *, split: bool
) -> tuple[str, ...]:
    """Plain words about the chosen setting: what gives θ away, and what beats it in both leak and error."""
    size = len(coefficients)
    lines = []
    if size == 1:
        lines.append("one copy: there is nothing to cancel, the update's error is first order in the noise")
    if size > 1 and not split and not offset:
        lines.append(
            "all copies of this handoff together give the model away (to 1e-5 or less): one holder has them all. "
            "--split gives each copy to another holder; --offset C leaves C unknown even to a holder of all"
        )
    if size > 1 and not split and offset:
        lines.append(
            f"--copies 1 --kappa 0 --offset {offset:g} leaves this holder as much unknown, with the same order of error, "
            f"for 1/{size} of the client's work"
        )
    if size > 1 and split and denoising == "extrapolation":
        lines.append("any two of these copies give the line away; with holders who might pool, harmonic is the safer choice")
    if size > 1 and kappa and denoising == "harmonic" and max(coefficients) > min(coefficients):
        lines.append(
            f"equal alphas (--alphas {','.join([f'{min(coefficients):g}'] * size)}) would leave the best-known copy as unknown "
            "and halve the update's error (docs/log.md)"
        )
    if not kappa and not offset:
        lines.append("no noise and no offset: a holder who has the base undoes the reparameterization and has the model")
    return tuple(lines)


def pooled(records: Iterable[HandoffRecord]) -> float:
    """What is left unknown to someone who pools all copies of these handoffs.

    Independent draws average as 1/√R; a draw whose copies are all there cancels its own noise; the frozen offset stays.
    """
    by_draw: dict[str, list[HandoffRecord]] = {}
    for record in records:
        by_draw.setdefault(record.draw, []).append(record)
    precision, offset = 0.0, 0.0
    for draw in by_draw.values():
        offset = draw[0].offset
        variance = _draw_error(draw) ** 2
        if variance == 0:
            return offset
        precision += 1 / variance
    return hypot(1 / sqrt(precision), offset) if by_draw else float("inf")


def _draw_error(draw: list[HandoffRecord]) -> float:
    coefficients = [copy.coefficient for record in draw for copy in record.copies]
    size, kappa = draw[0].size, draw[0].kappa
    if draw[0].denoising == "extrapolation":
        # Two points determine the line, whatever else is missing.
        return kappa * abs(coefficients[0]) if len(coefficients) == 1 else 0.0
    if len(coefficients) == size > 1:
        return 0.0
    # The best unbiased combination of the copies that are there; ε_k have correlation −1/(m−1).
    return kappa * _least_noise(coefficients, size)


def _least_noise(alphas: Sequence[float], size: int) -> float:
    import numpy as np

    scale = np.asarray(alphas)
    correlation = np.full((len(scale), len(scale)), -1.0 / (size - 1) if size > 1 else 1.0)
    np.fill_diagonal(correlation, 1.0)
    covariance = correlation * np.outer(scale, scale)
    return float(1 / np.sqrt(np.linalg.inv(covariance).sum()))


def by_holder(records: Iterable[HandoffRecord]) -> Mapping[str, float]:
    """What each holder's own handoffs leave it not knowing."""
    holders: dict[str, list[HandoffRecord]] = {}
    for record in records:
        holders.setdefault(record.holder, []).append(record)
    return {holder: pooled(mine) for holder, mine in holders.items()}
