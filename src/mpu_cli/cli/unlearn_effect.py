"""Options of `mpu unlearn` that would change nothing.

Refused if the user gave them, whatever a preset set is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Brought:
    """What an option's effect depends on, beside the settings."""

    is_handoff: bool
    retain: bool
    refusals: bool
    texts: bool
    """Whether any row, to forget or to keep, is a plain text."""


def refuse_without_effect(
    settings: TrainingSettings, brought: Brought, given: Callable[[str], bool]
) -> None:
    """Refuse the first option that the user gave and that has no effect on this run.

    `given` is asked by the option's name.

    Raises:
        UsageError: there is one.
    """
    # option: whether it asks for something, whether that has an effect, why not, what to do
    cases = {
        "redraw_refusals": (
            settings.redraw_refusals,
            brought.refusals,
            "there are none to draw from",
            "give --refusals FILE",
        ),
        "draws": (
            settings.draws == "independent",
            brought.retain or brought.refusals,
            "there are no retain rows or refusals to draw",
            "give --retain FILE, or leave it out",
        ),
        "join_texts": (
            settings.join_texts,
            brought.texts,
            "no row is a plain text",
            "give rows with text, or leave it out",
        ),
        "order_per_copy": (
            settings.order_per_copy,
            brought.is_handoff,
            "a model has no copies",
            "leave it out, or give a handoff",
        ),
        "decay_all": (
            settings.decay_all,
            settings.weight_decay > 0,
            "--weight-decay is 0, so nothing decays",
            "give --weight-decay, or leave it out",
        ),
        "partial_step": (
            settings.partial_step == "share",
            settings.gradient_accumulation > 1,
            "with --gradient-accumulation 1 every step is whole",
            "give more, or leave it out",
        ),
    }
    for name, (asked, has_effect, why, remedy) in cases.items():
        if asked and not has_effect and given(name):
            value = {"draws": " independent", "partial_step": " share"}.get(name, "")
            raise UsageError(f"--{name.replace('_', '-')}{value}: {why}", remedy)
