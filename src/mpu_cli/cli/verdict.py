"""The verdict of `mpu unlearn`: how much was forgotten and how much was retained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.figures import probability

if TYPE_CHECKING:
    from mpu_cli.training.effect import Change
    from mpu_cli.training.report import TrainingReport


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentences, the warnings, and the numbers for JSON."""

    words: str
    warnings: tuple[str, ...]
    content: dict[str, Any]


def verdict(reports: Mapping[str, TrainingReport]) -> Verdict | None:
    """The mean over the copies; None if no answers were measured: a cut handoff has none."""
    from mpu_cli.training.effect import LITTLE, UNKNOWN, mean_effect

    effects = [report.effect for report in reports.values() if report.effect is not None]
    if not effects:
        return None
    effect = mean_effect(effects)
    words = _sentence("Forget", effect.forget, "lower")
    warnings = []
    if effect.forget.before < UNKNOWN:
        warnings.append(
            f"the model did not know these rows before (forget rows {_shown(effect.forget)}), so"
            " there was nothing to forget: check --forget and the prompt format (mpu data check"
            " --model shows one row as the model sees it)"
        )
    elif effect.forget.fall < LITTLE:
        warnings.append(
            f"little was forgotten (forget rows {_shown(effect.forget)}): triple --learning-rate or"
            " raise --epochs, then train again"
        )
    if effect.retain is None:
        words += " Retain rows: not measured, because there was no --retain."
    else:
        words += f" {_sentence('Retain', effect.retain, 'higher')}"
        if effect.retain.fall > LITTLE:
            warnings.append(
                f"retained knowledge fell (retain rows {_shown(effect.retain)}): lower"
                " --learning-rate or --epochs, or stop earlier with --stop-retain-below"
            )
    if len(effects) > 1:
        words += f" Mean of {len(effects)} copies; the server's model may differ."
    return Verdict(words, tuple(warnings), {**asdict(effect), "words": words, "warnings": warnings})


def states_verdict(reports: Mapping[str, TrainingReport]) -> Verdict | None:
    """What a run on a cut handoff can tell; None for whole models."""
    moved = [report.states for report in reports.values() if report.states is not None]
    if not moved:
        return None
    forget = sum(one.forget for one in moved) / len(moved)
    retained = [one.retain for one in moved if one.retain is not None]
    retain = sum(retained) / len(retained) if retained else None
    words = (
        f"States after layer {moved[0].layer} moved by {forget:.1%} of their length on forget rows"
        + (f" and {retain:.1%} on retain rows" if retain is not None else "")
        + ". Answers cannot be measured without the layers above: the server can, with mpu eval."
    )
    content = {"layer": moved[0].layer, "forget": forget, "retain": retain, "words": words}
    return Verdict(words, (), content)


def _sentence(name: str, change: Change, better: str) -> str:
    of_all = "" if change.rows == change.all_rows else f" of {change.all_rows}"
    return (
        f"{name} rows: answer probability {_shown(change)}, {better} is better"
        f" ({change.rows}{of_all} rows)."
    )


def _shown(change: Change) -> str:
    return f"{probability(change.before)} → {probability(change.after)}"
