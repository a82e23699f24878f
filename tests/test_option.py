"""Options that are fields of a settings class: ranges and their messages."""

from __future__ import annotations

import math

import pytest

from mpu_cli.errors import UsageError
from mpu_cli.server.aggregation.settings import AggregateSettings


@pytest.mark.parametrize("value", [0, -1.0, math.nan])
def test_a_range_up_to_infinity_is_a_number_above_its_bound(value):
    """Infinity itself is allowed: it switches the check off."""
    assert AggregateSettings(max_relative_norm=math.inf).max_relative_norm == math.inf
    with pytest.raises(UsageError, match=r"expected a number above 0$"):
        AggregateSettings(max_relative_norm=value)
