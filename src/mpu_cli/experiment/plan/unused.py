"""What a plan defines and no run of it uses: most often a word that the grid forgot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mpu_cli.experiment.plan.cells import Cell
from mpu_cli.experiment.plan.document import Keys
from mpu_cli.experiment.plan.schema import ExperimentPlan


def unused(plan: ExperimentPlan, cells: Sequence[Cell]) -> list[str]:
    """A warning for each method, variant and data split that no run uses."""
    used = {keys for cell in cells for keys in _used(cell)}
    return [
        f"{plan.document.place(keys)}: no run uses it; name it in the grid's {axis}, or remove it"
        for axis, keys in _defined(plan)
        if tuple(str(key).lower() for key in keys) not in used
    ]


def _defined(plan: ExperimentPlan) -> Iterator[tuple[str, Keys]]:
    """Where each definition stands, and the axis that can name it."""
    content = plan.document.content
    for name in content.get("methods") or {}:
        yield "method", ("methods", name)
    for variant, layer in (content.get("variants") or {}).items():
        yield "variant", ("variants", variant)
        for name in layer.get("methods") or {}:
            yield "method", ("variants", variant, "methods", name)
    if len(plan.splits) > 1:
        for name in plan.splits:
            yield "data", ("data", name)


def _used(cell: Cell) -> Iterator[tuple[str, ...]]:
    """The definitions that a cell uses, in lower case."""
    method = cell.method.lower()
    yield "methods", method
    yield "data", cell.split.name.lower()
    if "variant" in cell.axes:
        variant = str(cell.axes["variant"]).lower()
        yield "variants", variant
        yield "variants", variant, "methods", method
