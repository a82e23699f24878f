"""How training changed the mean answer probability, from before the first step to after the last.

It is measured on some of the rows, for the price of a few forward passes; `mpu eval` measures all
rows, and more.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.logprobs import answer_nll, mean_probability
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.training_sets import TrainingSets

MOST_ROWS, FEWEST_ROWS = 64, 16
_SHARE = 0.1
"""Share of the training's own work that may be spent on measuring more than the fewest rows."""
LITTLE = 0.1
"""The smallest relative change of a probability that is worth reporting."""
UNKNOWN = 5e-4
"""Below this mean answer probability, shown as .000, a model did not know the rows."""


@dataclass(frozen=True, slots=True)
class Change:
    """Mean answer probability exp(−NLL / tokens) before and after, over `rows` of `all_rows`."""

    before: float
    after: float
    rows: int
    all_rows: int

    @property
    def fall(self) -> float:
        """The relative fall of the probability; negative if it rose."""
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """The change on the forget rows, and on the retain rows if there are any."""

    forget: Change
    retain: Change | None

    @classmethod
    def of(cls, content: dict[str, Any]) -> Effect:
        """Rebuild an effect from what `dataclasses.asdict` made of one."""
        retain = content["retain"]
        return cls(Change(**content["forget"]), Change(**retain) if retain else None)


class EffectSample:
    """The rows that are measured: the same before and after, and in every copy."""

    def __init__(
        self, sets: TrainingSets, settings: TrainingSettings, *, trains_retain: bool
    ) -> None:
        """Choose the rows; `trains_retain`: each forget row is trained with a retain row."""
        batch = settings.batch_size * settings.gradient_accumulation
        n_forget = len(sets.forget)
        steps = settings.total_steps(n_forget)
        n_trained = min(settings.epochs * n_forget, steps * batch) * (1 + trains_retain)
        # A backward pass costs as much as two forward passes; both sets are measured twice.
        count = min(MOST_ROWS, max(FEWEST_ROWS, int(_SHARE * 3 * n_trained / 4)))
        self._settings, self._pad_id = settings, sets.pad_id
        self._all = [sets.forget, sets.retain or ()]
        self._chosen = [evenly(rows, count) for rows in self._all]

    def measure(self, model: Any) -> tuple[float | None, ...]:
        """Mean answer probability of the forget rows and the retain rows; None without rows."""
        settings, device = self._settings, next(model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if settings.autocasts else nullcontext():
            return tuple(
                mean_probability(answer_nll(model, rows, settings.batch_size, self._pad_id))
                if rows
                else None
                for rows in self._chosen
            )

    def effect(self, before: tuple[float | None, ...], after: tuple[float | None, ...]) -> Effect:
        """Compare two measurements."""
        forget, retain = (
            None if then is None or now is None else Change(then, now, len(rows), len(whole))
            for then, now, rows, whole in zip(before, after, self._chosen, self._all, strict=True)
        )
        assert forget is not None
        return Effect(forget, retain)


def evenly(rows: Sequence[TokenizedRow], count: int) -> list[TokenizedRow]:
    """At most `count` rows, spread evenly over all."""
    count = min(count, len(rows))
    return [rows[(2 * number + 1) * len(rows) // (2 * count)] for number in range(count)]


def mean_effect(effects: Sequence[Effect]) -> Effect:
    """The mean over copies, which were all measured on the same rows."""
    retained = [effect.retain for effect in effects if effect.retain is not None]
    return Effect(
        _mean([effect.forget for effect in effects]),
        _mean(retained) if len(retained) == len(effects) else None,
    )


def _mean(changes: Sequence[Change]) -> Change:
    before = sum(change.before for change in changes) / len(changes)
    after = sum(change.after for change in changes) / len(changes)
    return Change(before, after, changes[0].rows, changes[0].all_rows)
