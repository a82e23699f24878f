"""Fixtures of the tests of methods."""

from __future__ import annotations

import pytest
from method_cases import LAYERS, World, exact, world

from tiny_models import make_model


@pytest.fixture(scope="session")
def before() -> World:
    """The reference's numbers: another model than that under test, so that they matter."""
    return world(exact(make_model(seed=2, num_hidden_layers=LAYERS)))
