"""What the exposure numbers mean, and which settings would be better, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from mpu_cli.documentation import page
from mpu_cli.server.lineage.exposure import LINEAR, NUMBER_GRID, SINGULAR_VALUES, left

_ATTACKS = {
    LINEAR: "",
    SINGULAR_VALUES: "after shrinking singular values",
    NUMBER_GRID: "after rounding to the model's own number grid",
}
BEHAVIOUR = "a copy behaves like the model, even where its weights are hidden"


def meaning(relative_to: str, no_copy: float = 1.0, *, is_cut: bool = False) -> str:
    """What the numbers of an exposure mean, in one sentence.

    `is_cut`: some layers were not sent.
    """
    if relative_to == "task-vector":
        where = ", counting layers that were not sent" if is_cut else " in the tensors with noise"
        unit = (
            f"of the task vector stays unknown{where} (1 is all of it, which is what the base"
            " alone leaves unknown)"
        )
    elif no_copy < 1:
        unit = f"of the weights stays unknown (the base alone leaves {no_copy:.3g})"
    else:
        unit = (
            "of the weights stays unknown (1 is all of them, to a holder without a base; if a base"
            " exists, name it with --base, because less stays unknown to a holder who has it)"
        )
    told = "" if is_cut else f"; {BEHAVIOUR}"
    return f"at most this share {unit}, and less if there is a better attack{told}"


def attack(bound: str) -> str:
    """Words for the attack that decides a number; "" for the linear estimate."""
    return _ATTACKS[bound]


def who_pool(size: int, count: int) -> str:
    """Name the group of `size` of `count` holders that knows most."""
    if size == 1:
        return f"to the best-informed of {count} holders"
    return (
        f"to all {count} holders together"
        if size == count
        else f"to the best-informed {size} of {count} holders together"
    )


def interrupted(count: int) -> str:
    """Say that the numbers count `count` handoffs in state `prepared`."""
    return (
        f"the numbers count {count} interrupted handoff{'s' * (count > 1)} that the client may or"
        " may not have"
    )


def sent_layers(layers: int, of: int) -> str:
    """Words for what a cut handoff holds: layers 0 to 6 of 16."""
    return f"layer 0 of {of}" if layers == 1 else f"layers 0 to {layers - 1} of {of}"


def advice(
    denoising: str,
    kappa: float,
    coefficients: Sequence[float],
    offset: float,
    *,
    split: bool,
    sent: str = "the model",
) -> tuple[str, ...]:
    """Say how the settings reveal θ, and which settings leak less at no larger error.

    `sent` is what the copies are of: the model, or some of its layers.
    """
    size = len(coefficients)
    lines = []
    if size == 1 and (kappa or offset):
        lines.append(
            "with one copy no noise cancels: the error of the update is first order in the noise"
        )
    if size > 1 and not split and not offset:
        lines.append(
            f"all copies of this handoff together reveal {sent} (to 1e-5 or less), and one holder"
            " has them all; --split gives each copy to a different holder, and --offset C keeps up"
            f" to C/√(1+C²) unknown even to a holder of all copies (0.1: {left(0.1):.3g}, 1:"
            f" {left(1.0):.3g})"
        )
    if size > 1 and not split and offset:
        lines.append(
            f"--copies 1 --kappa 0 --offset {offset:g} keeps as much unknown to this holder, with"
            f" an error of the same order, for 1/{size} of the client's work"
        )
    if size > 1 and split and denoising == "extrapolation":
        lines.append(
            f"any two of these copies together reveal {sent}; if holders may pool their copies,"
            " give --denoising harmonic"
        )
    if not kappa and not offset:
        lines.append(
            "no noise and no offset: a holder of the base can undo the reparameterization and then"
            f" has {sent}, and the update has no error"
        )
    return tuple(lines)


def equal_alphas(
    denoising: str, kappa: float, coefficients: Sequence[float], *, split: bool
) -> tuple[str, ...]:
    """Say what equal alphas would change.

    Unequal ones are the default, as in the paper (arXiv 2602.23798).
    """
    size = len(coefficients)
    if size == 1 or not kappa or denoising != "harmonic" or max(coefficients) == min(coefficients):
        return ()
    return (
        (
            f"equal alphas (--alphas {','.join([f'{min(coefficients):g}'] * size)}) would hide the"
            f" best-known copy as well and halve the update's error ({page('log')})"
            f"{', but hide less from holders who pool their copies' if split else ''}"
        ),
    )
