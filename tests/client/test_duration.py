"""The estimate of time: what it is made of."""

from __future__ import annotations

from dataclasses import replace

from mpu_cli.client.duration import RowSizes, measured_speed, products_of_a_step, seconds_in_all
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.training.settings import TrainingSettings

SETTINGS = TrainingSettings(device="cpu", batch_size=4)


def test_sizes_are_of_all_rows():
    """The longest of both sets bounds the memory; only forget rows make steps."""
    rows = [TokenizedRow(tuple(range(n)), tuple(range(n))) for n in (3, 5, 10)]
    assert RowSizes.of(rows[:2], rows[2:]) == RowSizes(2, 10, 6.0)


def test_time_grows_with_what_is_computed():
    """Twice the copies, steps, batches, passes or tokens; checkpointing computes a third more."""
    one = products_of_a_step(SETTINGS, 1000, 10.0, 1)
    assert one == 6 * 1000 * 10 * 4
    assert products_of_a_step(replace(SETTINGS, gradient_accumulation=2), 1000, 10.0, 2) == 4 * one
    assert products_of_a_step(replace(SETTINGS, smoothing=0.1), 1000, 10.0, 2) == 3 * one
    assert (
        products_of_a_step(replace(SETTINGS, gradient_checkpointing=True), 1000, 10.0, 1) * 3
        == 4 * one
    )
    start = seconds_in_all(0, 1, one, 1e9)
    assert (
        seconds_in_all(10, 2, 1e9, 1e9) - start
        == 2 * (seconds_in_all(10, 1, 1e9, 1e9) - start)
        > 20
    )


def test_the_speed_is_one_that_a_machine_has():
    """Between a gigaflop and an exaflop a second, in both precisions."""
    for precision in ("float32", "bfloat16"):
        assert 1e8 < measured_speed(replace(SETTINGS, precision=precision)) < 1e18
