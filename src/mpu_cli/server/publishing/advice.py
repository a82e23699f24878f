"""What the exposure numbers mean, and what beats a chosen setting, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from mpu_cli.documentation import page
from mpu_cli.server.lineage.exposure import left

BEHAVIOUR = "a copy behaves as the model does, however much of the numbers is hidden"


def meaning(relative_to: str, no_copy: float = 1.0) -> str:
    """What the numbers of an exposure say, in one sentence."""
    if relative_to == "task-vector":
        unit = (
            "of the task vector in the tensors that get noise (1: all of it, which is what the base"
            " alone leaves)"
        )
    elif no_copy < 1:
        unit = f"of the weights (the base alone leaves {no_copy:.3g})"
    else:
        unit = (
            "of the weights (1: all of them, for somebody without a base; whoever has a base that"
            " you did not name starts from it and is left less: name it with --base)"
        )
    return (
        f"at most this much is left unknown {unit}, less where the fine-tune has structure;"
        f" {BEHAVIOUR}"
    )


def who_pool(size: int, count: int) -> str:
    """Names the coalition of `size` of `count` holders that is left least."""
    if size == 1:
        return f"to the one of {count} holders who knows most"
    return (
        f"to all {count} holders, pooled"
        if size == count
        else f"to those {size} of {count} holders who know most, pooled"
    )


def interrupted(count: int) -> str:
    """Says that `prepared` handoffs are in the numbers."""
    return (
        f"counted as well: {count} handoff{'s' * (count > 1)} whose writing was interrupted and"
        " that may or may not have left"
    )


def advice(
    denoising: str, kappa: float, coefficients: Sequence[float], offset: float, *, split: bool
) -> tuple[str, ...]:
    """Plain words about the chosen setting.

    What gives θ away, and what beats it in both leak and error.
    """
    size = len(coefficients)
    lines = []
    if size == 1:
        lines.append(
            "one copy: there is nothing to cancel, the update's error is first order in the noise"
        )
    if size > 1 and not split and not offset:
        lines.append(
            "all copies of this handoff together give the model away (to 1e-5 or less): one holder"
            " has them all. --split gives each copy to another holder; --offset C leaves up to"
            f" C/√(1+C²) unknown even to a holder of all (0.1: {left(0.1):.3g}, 1: {left(1.0):.3g})"
        )
    if size > 1 and not split and offset:
        lines.append(
            f"--copies 1 --kappa 0 --offset {offset:g} leaves this holder as much unknown, with the"
            f" same order of error, for 1/{size} of the client's work"
        )
    if size > 1 and split and denoising == "extrapolation":
        lines.append(
            "any two of these copies give the line away; with holders who might pool, harmonic is"
            " the safer choice"
        )
    if not kappa and not offset:
        lines.append(
            "no noise and no offset: a holder who has the base undoes the reparameterization and"
            " has the model"
        )
    return tuple(lines)


def equal_alphas(
    denoising: str, kappa: float, coefficients: Sequence[float], *, split: bool
) -> tuple[str, ...]:
    """What equal alphas would change: for who chose unequal ones, or asks (-v).

    They are the default, as the paper's.
    """
    size = len(coefficients)
    if size == 1 or not kappa or denoising != "harmonic" or max(coefficients) == min(coefficients):
        return ()
    return (
        (
            f"equal alphas (--alphas {','.join([f'{min(coefficients):g}'] * size)}) would leave the"
            " best-known copy as unknown and halve the update's error"
            f" ({page('log')}){', but leave less to holders who pool' if split else ''}"
        ),
    )
