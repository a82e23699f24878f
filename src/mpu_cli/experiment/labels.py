"""Readable names of cells and of what their steps depend on."""

from __future__ import annotations

from collections.abc import Collection

from mpu_cli.experiment.plan.cells import Cell
from mpu_cli.experiment.plan.schema import Value
from mpu_cli.experiment.plan.values import shown

_COLUMNS = ("method", "data", "variant")
"""Axes that results have a column for."""


def label(cell: Cell, sections: Collection[str], *, method: bool = True) -> str:
    """The method, data, variant and the axes of these sections: "GradDiff kappa=0.1 copies=3"."""
    words = [cell.method] if method else []
    words += [
        f"{name}={shown(cell.axes[name])}" for name in ("data", "variant") if name in cell.axes
    ]
    words += [f"{name}={shown(value)}" for name, value in axes_of(cell, sections).items()]
    return " ".join(words)


def axes_of(cell: Cell, sections: Collection[str]) -> dict[str, Value]:
    """The values of a cell's axes that belong to these sections, and of the axis `rounds`."""
    return {
        name: value
        for name, value in cell.axes.items()
        if name not in _COLUMNS and (name == "rounds" or cell.own[name] in sections)
    }


def variant_of(cell: Cell) -> str | None:
    """The name of the cell's variant."""
    return None if "variant" not in cell.axes else str(cell.axes["variant"])
