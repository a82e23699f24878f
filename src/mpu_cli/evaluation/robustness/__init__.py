"""Does it stay forgotten? One file per check; whatever a file names CHECK is a check.

A check measures row metrics again under a *condition* (weights in 4 bits, after relearning, asked
otherwise) and gives columns whose metric is called `metric@condition`: they are averaged, compared
and recorded like any other.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mpu_cli.evaluation.robustness._check import Check
from mpu_cli.registry import Registry, instances

CHECKS = Registry("robustness check", Path(__file__).parent, instances(__name__, Check))


@cache
def all_checks() -> dict[str, Check]:
    """Every check by name."""
    return CHECKS.entries()
