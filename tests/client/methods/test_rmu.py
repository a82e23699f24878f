"""RMU: the paper's formula in numpy, the published defaults, and what is special."""

from __future__ import annotations

import random

import numpy as np
import pytest
from method_cases import MethodCase, Values, World


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Squared distances, a row's tokens first, then rows."""
    draw = random.Random(f"rmu/{p['seed']}").random
    u = np.array([draw() for _ in range(32)])
    target = p["c"] * u / np.linalg.norm(u)
    forget = [(np.linalg.norm(row.h - target, axis=1) ** 2).mean() for row in now.forget]
    pairs = zip(now.retain, before.retain, strict=True)
    retain = [(np.linalg.norm(row.h - ref.h, axis=1) ** 2).mean() for row, ref in pairs]
    return float(p["gamma"] * np.mean(forget) + p["alpha"] * np.mean(retain))


CASE = MethodCase(
    formula,
    published={"c": 2.0, "layer": -1, "gamma": 1.0, "alpha": 1.0, "seed": 0},
    layers_above_stay=True,
)


def test_steering_vector_is_pinned() -> None:
    """RMU's direction never changes: copies may be trained by different versions of Python."""
    from mpu_cli.client.methods.rmu import steering_vector

    u = steering_vector(4, 0)
    pinned = (0.40232412768996256, 0.8728080696042386, 0.2391871717239971, 0.13831437667469149)
    assert u == pytest.approx(pinned, rel=1e-15)
    assert np.linalg.norm(steering_vector(576, 1)) == pytest.approx(1, rel=1e-14)
    assert min(steering_vector(576, 1)) >= 0
    assert steering_vector(4, 1) != u
