"""Does it stay forgotten? One file per check; whatever a file names CHECK is a check.

A check measures row metrics again under a *condition* (weights in 4 bits, after relearning, asked
otherwise) and gives columns whose metric is called `metric@condition`: they are averaged, compared
and recorded like any other.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from mpu_cli.evaluation.robustness.check import Check


@cache
def all_checks() -> dict[str, Check]:
    """Every check by name."""
    modules = [
        import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
        if info.name != "check"
    ]
    checks: list[Check] = [module.CHECK for module in modules]
    return {check.name: check for check in checks}
