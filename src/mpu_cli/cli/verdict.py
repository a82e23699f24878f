"""What `mpu unlearn` ends with.

Did the answers become less likely, and what did it cost, in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpu_cli.training.effect import Change
    from mpu_cli.training.report import TrainingReport


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence, what to warn of, and the numbers."""

    words: str
    warnings: tuple[str, ...]
    content: dict[str, Any]


def verdict(reports: Mapping[str, TrainingReport]) -> Verdict | None:
    """The mean over the copies.

    None if nothing was measured (all copies were kept by an older mpu).
    """
    from mpu_cli.training.effect import LITTLE, mean_effect

    effects = [report.effect for report in reports.values() if report.effect is not None]
    if not effects:
        return None
    effect = mean_effect(effects)
    words = f"forget {_shown(effect.forget)} (lower is better)"
    rows = _rows("forget", effect.forget)
    warnings = []
    if effect.forget.fall < LITTLE:
        warnings.append(
            f"little was forgotten (forget {_shown(effect.forget)}): triple --learning-rate, or"
            " raise --epochs, and train again"
        )
    if effect.retain is None:
        words += ", retain not measured (no --retain)"
    else:
        words += f", retain {_shown(effect.retain)}"
        rows += f" and {_rows('retain', effect.retain)}"
        if effect.retain.fall > LITTLE:
            warnings.append(
                f"retained rows fell (retain {_shown(effect.retain)}): lower --learning-rate or"
                " --epochs, or end before that with --stop-retain-below"
            )
    words += f": mean answer probability on {rows}"
    if len(effects) > 1:
        words += f", mean of {len(effects)} copies (the server's model may differ)"
    return Verdict(words, tuple(warnings), {**asdict(effect), "words": words, "warnings": warnings})


def _shown(change: Change) -> str:
    return f"{_probability(change.before)} → {_probability(change.after)}"


def _probability(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _rows(name: str, change: Change) -> str:
    return (
        f"{change.rows} {name} rows"
        if change.rows == change.all_rows
        else f"{change.rows} of {change.all_rows} {name} rows"
    )
