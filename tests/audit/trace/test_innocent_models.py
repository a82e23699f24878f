"""A model that came from no copy is named as rarely as stated, whatever it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from leaks import drifted, leak, quantised, tensors_of
from scipy import stats

from mpu_cli.audit.trace.open_case import open_case
from mpu_cli.audit.trace.settings import TraceSettings
from mpu_cli.audit.trace.survey import Survey, groups

KINDS = 5


def innocent(town, number):
    """Fine-tunes of the base and of θ by any amount, rounded ones, unrelated models."""
    base, model = tensors_of(town.base), tensors_of(town.model)
    share = 10 ** (-3 + 3 * (number % 37) / 36)
    kinds = (
        lambda: drifted(base, share, number),
        lambda: drifted(model, share, number),
        lambda: quantised(drifted(base, share, number), 4),
        lambda: {name: tensor.bfloat16() for name, tensor in drifted(model, share, number).items()},
        lambda: drifted({name: torch.zeros_like(base[name]) + 1e-3 for name in base}, 9, number),
    )
    return kinds[number % len(kinds)]()


def innocents(town, root, count):
    """So many directories; the last three are the base, θ, and the lineage's next model."""
    made = [
        leak(innocent(town, number), town.model, root / str(number)) for number in range(count - 3)
    ]
    return [*made, town.base, town.model, town.later]


def test_none_of_twenty_innocent_models_is_named(town, tmp_path):
    """At the default rate, 1e-6."""
    results = town.trace_all(innocents(town, tmp_path, 20))
    assert [result.verdict for result in results] == ["none"] * 20
    assert max(result.largest for result in results) < results[0].threshold - 1


@pytest.mark.slow
@pytest.mark.parametrize("centre", ["base", "model"])
def test_none_of_two_hundred_innocent_models_is_named(town, tmp_path, centre):
    """Nor more than the stated share of them at a rate of 20 %."""
    paths, given = innocents(town, tmp_path, 200), {centre: getattr(town, centre)}
    assert not any(town.named(result) for result in town.trace_all(paths, **given))
    often = town.trace_all(paths, **given, false_positive_rate=0.2)
    accused = sum(bool(result.named) for result in often)
    assert accused <= 0.2 * 200 + 4 * (200 * 0.2 * 0.8) ** 0.5


def test_the_z_of_innocent_models_is_standard_normal(town, tmp_path):
    """In all frames together: its mean, its variance, its distribution and its tails."""
    paths = innocents(town, tmp_path, 15)
    opened = [open_case(path, town.secret, None, None, TraceSettings()) for path in paths]
    case = opened[0].case
    tests = {
        frame: range(len(case.draws)) if frame.draw is None else (frame.draw,)
        for frame in case.frames
    }
    found = [item.found for item in opened]
    survey = Survey(found, case.draws, case.known, case.centre, tests, None)
    survey.add(groups(case.known, "layers", None)[0])
    z = np.array(
        [
            value
            for evidence in survey.evidence.values()
            for value in evidence.scores(np.eye(evidence.streams))
        ]
    )
    assert len(z) > 1000
    assert abs(z.mean()) < 4 / len(z) ** 0.5
    assert abs(z.var() - 1) < 4 * (2 / len(z)) ** 0.5
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert np.abs(z).max() < 5
