"""Refuse options of `mpu unlearn` that have no effect, if the user gave them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class RunInput:
    """The inputs that decide, with the settings, whether an option has an effect."""

    is_handoff: bool
    retain: bool
    refusals: bool
    texts: bool
    """Whether any forget or retain row is plain text."""


def refuse_without_effect(
    settings: TrainingSettings, run_input: RunInput, given: Collection[str]
) -> None:
    """Refuse the first option that has no effect on this run. What a preset set is left alone.

    Args:
        settings: of the training.
        run_input: what is trained, and on which rows.
        given: the flags that the user gave.

    Raises:
        UsageError: there is such an option.
    """
    # Flag and value, whether it is set, whether it has an effect, why it has none, the hint.
    cases = (
        (
            "--redraw-refusals",
            settings.redraw_refusals,
            run_input.refusals,
            "there are no refusals to draw from",
            "give --refusals FILE",
        ),
        (
            "--draws independent",
            settings.draws == "independent",
            run_input.retain or run_input.refusals,
            "there are no retain rows or refusals to draw",
            "give --retain FILE, or leave it out",
        ),
        (
            "--join-texts",
            settings.join_texts,
            run_input.texts,
            "no row is a plain text",
            "give rows with text, or leave it out",
        ),
        (
            "--order-per-copy",
            settings.order_per_copy,
            run_input.is_handoff,
            "a model has no copies",
            "leave it out, or give a handoff",
        ),
        (
            "--decay-all",
            settings.decay_all,
            settings.weight_decay > 0,
            "--weight-decay is 0, so nothing decays",
            "give --weight-decay, or leave it out",
        ),
        (
            "--partial-step share",
            settings.partial_step == "share",
            settings.gradient_accumulation > 1,
            "with --gradient-accumulation 1 every step is whole",
            "give a larger --gradient-accumulation, or leave it out",
        ),
    )
    for option, is_set, has_effect, why, hint in cases:
        if is_set and not has_effect and option.partition(" ")[0] in given:
            raise UsageError(f"{option}: {why}", hint)
