"""Which transforms a model allows, and which of them a `--reparam` uses. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.errors import UsageError
from mpu_cli.server.transforms import Transform, transforms


@dataclass(frozen=True, slots=True)
class Status:
    """What a transform means for a model."""

    kind: Literal["valid", "invalid", "none"]
    """It keeps the function, it would or might change it, or it has nothing to move."""
    reason: str = ""
    """Why it is invalid."""


def statuses(layout: ModelLayout) -> dict[str, Status]:
    """What each transform means for a model, in the order in which transforms are applied."""
    ordered = sorted(transforms().items(), key=lambda item: _order(item[1]))
    return {name: _status(name, transform, layout) for name, transform in ordered}


def chosen(reparameterization: str, layout: ModelLayout) -> tuple[str, ...]:
    """The transforms that a reparameterization uses for a model, in the order of application.

    Raises:
        UsageError: a transform that the reparameterization requires would change the function.
    """
    by_step: dict[int, tuple[int, str]] = {}
    for name, transform in transforms().items():
        use = transform.USES.get(reparameterization)
        if use is None:
            continue
        status = _status(name, transform, layout)
        if status.kind == "valid":
            by_step[use.step] = min(by_step.get(use.step, (use.choice, name)), (use.choice, name))
        elif use.required:
            raise UsageError(
                f"--reparam {reparameterization}: {name} changes the function of the"
                f" {layout.family} family: {status.reason}",
                "use --reparam signed-permutation",
            )
    return tuple(name for _, (_, name) in sorted(by_step.items()))


def is_rotation(reparameterization: str) -> bool:
    """Whether it uses a transform that AdamW does not commute with."""
    return any(
        reparameterization in transform.USES and not transform.EXACT
        for transform in transforms().values()
    )


def _order(transform: Transform) -> tuple[int, int]:
    return min(((use.step, use.choice) for use in transform.USES.values()), default=(0, 0))


def _status(name: str, transform: Transform, layout: ModelLayout) -> Status:
    layers = [layer for layer in layout.layers if transform.ACTS_ON in layer.roles]
    if not layers:
        return Status("none")
    if name in layout.excluded:
        return Status("invalid", layout.excluded[name])
    for fact, allowed in transform.NEEDS.items():
        for value in {layer.facts.get(fact) for layer in layers} - set(allowed):
            return Status("invalid", f"{fact} is {value or 'not stated'}")
    return Status("valid")
