"""Plans of runs with unknown keys, wrong values, absurd counts and paths that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testkit.case import Case
from testkit.damage import replace

CHANGES = {
    "an unknown key": ("seeds:", "sedes:"),
    "a key twice": ("seeds: [1]", "seeds: [1]\nseeds: [2]"),
    "a seed that is a text": ("seeds: [1]", "seeds: [one]"),
    "a seed below zero": ("seeds: [1]", "seeds: [-1]"),
    "a seed twice": ("seeds: [1]", "seeds: [1, 1]"),
    "no seeds": ("seeds: [1]", "seeds: []"),
    "an unknown method": ("[GradDiff]", "[GradMagic]"),
    "κ of yes": ("kappa: [0.01]", "kappa: [yes]"),
    "κ of NaN": ("kappa: [0.01]", "kappa: [.nan]"),
    "κ below zero": ("kappa: [0.01]", "kappa: [-1]"),
    "no copies": ("copies: [2]", "copies: [0]"),
    "9,999,999 copies": ("copies: [2]", "copies: [9999999]"),
    "copies that are true": ("copies: [2]", "copies: [true]"),
    "an option that unlearn does not have": ("max_steps: 2", "max_stepz: 2"),
    "a step that is a list": ("max_steps: 2", "max_steps: [2]"),
    "an option that writes elsewhere": ("max_steps: 2", "out: /tmp/elsewhere, max_steps: 2"),
    "a grid that is a list": ("grid: {", "grid: [{"),
    "a date in place of a number": ("batch_size: 4", "batch_size: 2024-01-01"),
}
ABSENT = {
    "a model that is not there": ("model: model", "model: nowhere"),
    "rows that are not there": ("forget: forget.jsonl", "forget: nowhere.jsonl"),
}


def _changed(old: str, new: str):
    def damage(x: Path, w: object) -> None:
        replace(x / "plan.yaml", old, new)

    return damage


def _huge(x: Path, w: object) -> None:
    replace(x / "plan.yaml", "seeds: [1]", f"seeds: {list(range(100_000))}")


def cases() -> Iterator[Case]:
    """Read by mpu run."""
    for said, (old, new) in CHANGES.items():
        yield Case(f"plan: {said}", "plan", _changed(old, new))
    for said, (old, new) in ABSENT.items():
        kind = "3 BadModel" if "model" in said else "3 BadData"
        yield Case(f"plan: {said}", "plan", _changed(old, new), expect=kind)
    yield Case("plan: 100,000 seeds", "plan", _huge)
