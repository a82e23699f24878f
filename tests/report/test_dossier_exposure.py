"""What can be worked out from the exposures of a dossier: docs/reports.md says about 5 %."""

from __future__ import annotations

import numpy as np
import pytest

from mpu_cli.report.lineage_tables import exposure_table
from mpu_cli.server.lineage.exposure import Ledger, left


def shown(unknown: float) -> float:
    """The exposure of one holder, as the page shows it."""
    ledger = Ledger({"holder": unknown}, (), unknown, 1, 0, {})
    return float(exposure_table(ledger).rows[0][1])


def test_noise_is_known_to_about_five_percent():
    """The size of noise from its exposure: within 6 % up to twice the task vector, never exact."""
    errors = []
    for size in np.geomspace(0.005, 2, 400):
        unknown = shown(left(size))
        errors.append(abs(unknown / np.sqrt(1 - unknown**2) / size - 1))
    assert 0.02 < max(errors) < 0.06
    assert np.median(errors) > 0.003


def test_the_order_of_a_split_shows():
    """The default α of three holders differ by more than the digits hide."""
    exposures = [shown(left(0.1 * alpha)) for alpha in (1.0, 1.5, 2.0)]
    assert exposures == sorted(set(exposures))
    assert exposures == pytest.approx([0.1, 0.15, 0.2], rel=0.05)
