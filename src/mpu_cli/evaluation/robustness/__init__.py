"""Robustness checks, which test whether forgotten text comes back. Each file declares one `Check`.

A check measures row metrics again under a *condition* (4-bit weights, after relearning, rephrased
questions). Its columns are named `metric@condition` and are averaged, compared and recorded like
all others.
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
