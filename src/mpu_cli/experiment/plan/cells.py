"""The cells of a plan: one combination of the axes' values, with all options in effect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from mpu_cli.experiment.plan.commands import WORDS, Section
from mpu_cli.experiment.plan.schema import (
    Axis,
    ExperimentPlan,
    Given,
    Grid,
    Layer,
    Options,
    Split,
    Value,
)

_OF_SEVERAL_COPIES = frozenset({"alphas", "nodes", "split"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One setting of an experiment; each of its seeds and draws is a run."""

    axes: Mapping[str, Value]
    """The value of each axis, in the order of the plan."""
    own: Mapping[str, Section | None]
    """The section that each axis belongs to."""
    method: str
    split: Split
    rounds: int
    options: Options
    seeds: tuple[int, ...]
    draws: int

    def given(self, section: Section) -> Mapping[str, Given]:
        """The options of one section."""
        return self.options.get(section, {})

    def value(self, section: Section, name: str) -> Value:
        """The value that an option is given; None without one."""
        found = self.given(section).get(name)
        return None if found is None else found.value


def cells(plan: ExperimentPlan) -> Iterator[Cell]:
    """All cells of all grids, each once, in the order of the plan.

    The plan's own options come first; over them are laid those of the method, of the variant, of
    the method in the variant, and of the axes.
    """
    seen: set[str] = set()
    for grid in plan.grids:
        for values in product(*(axis.values for axis in grid.axes)):
            cell = _cell(plan, grid, tuple(zip(grid.axes, values, strict=True)))
            for one in (cell, _one_copy(cell)) if plan.one_copy else (cell,):
                if (text := repr(one)) not in seen:
                    seen.add(text)
                    yield one


def _cell(plan: ExperimentPlan, grid: Grid, chosen: tuple[tuple[Axis, Given], ...]) -> Cell:
    named = {axis.name: given.value for axis, given in chosen}
    method, variant = str(named["method"]), named.get("variant")
    layers = [plan.common, plan.common.methods.get(method)]
    if variant is not None:
        layers += [plan.variants[str(variant)], plan.variants[str(variant)].methods.get(method)]
    merged = _merged([layer for layer in layers if layer is not None])
    options = {section: dict(merged.options.get(section, {})) for section in WORDS}
    for axis, given in chosen:
        if axis.section is not None:
            options[axis.section][axis.option] = given
    rounds = named.get("rounds", merged.rounds)
    return Cell(
        axes=named,
        own={axis.name: axis.section for axis, _ in chosen},
        method=method,
        split=plan.splits[str(named["data"])]
        if "data" in named
        else next(iter(plan.splits.values())),
        rounds=rounds if isinstance(rounds, int) else 1,
        options=options,
        seeds=grid.seeds,
        draws=grid.draws,
    )


def _merged(layers: list[Layer]) -> Layer:
    """The layers laid over each other; a later one wins."""
    options: dict[Section, dict[str, Given]] = {}
    rounds = None
    for layer in layers:
        for section, given in layer.options.items():
            options.setdefault(section, {}).update(given)
        rounds = layer.rounds if layer.rounds is not None else rounds
    return Layer(options=options, rounds=rounds)


def _one_copy(cell: Cell) -> Cell:
    """The same cell with one noisy copy, which has nothing to cancel its noise."""
    keys = next((given.keys for given in cell.given("perturb").values()), ())
    perturb = {
        name: given
        for name, given in cell.given("perturb").items()
        if name not in _OF_SEVERAL_COPIES
    }
    perturb |= {"copies": Given(1, keys), "denoising": Given("harmonic", keys)}
    axes = {name: value for name, value in cell.axes.items() if name not in _OF_SEVERAL_COPIES}
    axes |= {"copies": 1} | ({"denoising": "harmonic"} if "denoising" in axes else {})
    own: dict[str, Section | None] = {name: cell.own.get(name, "perturb") for name in axes}
    return replace(cell, axes=axes, own=own, options={**cell.options, "perturb": perturb})
