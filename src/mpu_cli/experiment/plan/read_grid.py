"""Read the grids of a plan: axes, seeds and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mpu_cli.client import methods
from mpu_cli.experiment.plan.commands import AXES_OF, Commands
from mpu_cli.experiment.plan.document import Document, Keys
from mpu_cli.experiment.plan.schema import Axis, Given, Grid
from mpu_cli.experiment.plan.values import option_value
from mpu_cli.registry import did_you_mean

MAX_RUNS = 20_000
"""Largest number of runs, and of steps, of one plan."""
MAX_ROUNDS = 1000
_NAMED = ("method", "data", "variant", "rounds")


@dataclass(frozen=True, slots=True)
class Counts:
    """How often each cell is run."""

    seeds: tuple[int, ...] = (0,)
    draws: int = 1

    @classmethod
    def read(cls, document: Document, keys: Keys, content: Mapping[str, Any]) -> Counts:
        """Read `seeds` and `draws` from a map that may have them.

        Raises:
            UsageError: a seed is no whole number or occurs twice, or there is none.
        """
        return cls().changed(document, keys, content)

    def changed(self, document: Document, keys: Keys, content: Mapping[str, Any]) -> Counts:
        """These counts, with those of the map instead where it has them."""
        seeds, draws = self.seeds, self.draws
        if content.get("seeds") is not None:
            here, value = (*keys, "seeds"), content["seeds"]
            value = value if isinstance(value, list) else [value]
            seeds = tuple(natural(document, here, seed, least=0, most=2**32 - 1) for seed in value)
            if not seeds or len(set(seeds)) < len(seeds):
                raise document.wrong(
                    here, "expected different seeds", "for example seeds: [1, 2, 3]"
                )
        if content.get("draws") is not None:
            draws = natural(document, (*keys, "draws"), content["draws"])
        return Counts(seeds, draws)


def natural(
    document: Document, keys: Keys, value: object, least: int = 1, most: int = MAX_ROUNDS
) -> int:
    """A whole number in a range.

    Raises:
        UsageError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise document.wrong(keys, f"{value}: expected a whole number from {least} to {most}")
    return value


def read_grids(
    document: Document,
    content: Mapping[str, Any],
    commands: Commands,
    counts: Counts,
    splits: Sequence[str],
    variants: Sequence[str],
) -> tuple[Grid, ...]:
    """The grid and the further grids of a plan.

    Raises:
        UsageError: an axis or a value of it is unknown, two commands know an axis, or the grid has
            too many cells.
    """
    reader = _GridReader(document, commands, counts, splits, variants)
    grids = [reader.grid(("grid",), content["grid"])]
    also = content.get("also") or []
    if not isinstance(also, list):
        raise document.wrong(("also",), "expected a list of grids")
    grids += [reader.grid(("also", position), grid) for position, grid in enumerate(also)]
    if (runs := sum(map(_runs, grids))) > MAX_RUNS:
        raise document.wrong(
            ("grid",), f"{runs:,} runs; the limit is {MAX_RUNS:,}", "split the plan into several"
        )
    return tuple(grids)


def _runs(grid: Grid) -> int:
    return prod(len(axis.values) for axis in grid.axes) * len(grid.seeds) * grid.draws


@dataclass(frozen=True, slots=True)
class _GridReader:
    document: Document
    commands: Commands
    counts: Counts
    splits: Sequence[str]
    variants: Sequence[str]

    def grid(self, keys: Keys, value: Any) -> Grid:
        content = self.document.map(keys, value)
        axes = [
            self._axis(keys, key, values)
            for key, values in content.items()
            if key not in {"seeds", "draws"}
        ]
        names = [axis.name for axis in axes]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise self.document.wrong(keys, f"the axis {twice} occurs twice")
        if "method" not in names:
            hint = "for example method: [GradDiff, NPO]"
            raise self.document.wrong(keys, "an axis method is missing", hint)
        if "data" not in names and len(self.splits) > 1:
            hint = f"add data: [{', '.join(self.splits)}]"
            raise self.document.wrong(keys, "the plan has several data splits", hint)
        counts = self.counts.changed(self.document, keys, content)
        return Grid(axes=tuple(axes), seeds=counts.seeds, draws=counts.draws, keys=keys)

    def _axis(self, keys: Keys, key: str, value: Any) -> Axis:
        here = (*keys, key)
        values = value if isinstance(value, list) else [value]
        if not values:
            raise self.document.wrong(here, "an axis without values")
        if key in _NAMED:
            return Axis(key, None, key, self._different(here, self._named(here, key, values)))
        section, name = self._option(here, key)
        declared = self.commands.options[section][name]
        given = [
            Given(option_value(self.document, where, declared, one), where)
            for position, one in enumerate(values)
            for where in [(*here, position) if isinstance(value, list) else here]
        ]
        is_shared = len(self.commands.sections_with(name)) > 1
        return Axis(
            f"{section}.{name}" if is_shared else name, section, name, self._different(here, given)
        )

    def _option(self, here: Keys, key: str) -> tuple[Any, str]:
        written, dot, name = key.replace("-", "_").partition(".")
        if not dot:
            sections, name = self.commands.sections_with(written), written
        else:
            sections = [one for one in self.commands.sections_with(name) if one == written]
        if len(sections) > 1:
            names = " or ".join(f"{section}.{name}" for section in sections)
            told = f"{' and '.join(sections)} both have this option"
            raise self.document.wrong(here, told, f"write {names}")
        if not sections:
            for section in AXES_OF:
                if not dot and (instead := self.commands.instead(section, name)):
                    told = "the experiment sets this option itself"
                    raise self.document.wrong(here, told, instead)
            known = [*_NAMED, *(one for section in AXES_OF for one in self.commands.names(section))]
            hint = did_you_mean(
                name, known, "an axis is method, data, variant, rounds or an option"
            )
            raise self.document.wrong(here, "unknown axis", hint)
        return sections[0], name

    def _named(self, here: Keys, key: str, values: list[Any]) -> list[Given]:
        if key == "rounds":
            return [Given(natural(self.document, here, value), here) for value in values]
        known = {"method": methods.names(), "data": self.splits, "variant": self.variants}[key]
        by_lower = {name.lower() if key == "method" else name: name for name in known}
        given = []
        for value in values:
            text = str(value)
            name = by_lower.get(text.lower() if key == "method" else text)
            if name is None:
                hint = did_you_mean(text, known, f"known: {', '.join(known) or 'none'}")
                raise self.document.wrong(here, f"unknown {key} {text}", hint)
            given.append(Given(name, here))
        return given

    def _different(self, here: Keys, values: list[Given]) -> tuple[Given, ...]:
        if len({repr(given.value) for given in values}) < len(values):
            raise self.document.wrong(here, "a value occurs twice")
        return tuple(values)
