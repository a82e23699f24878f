"""The counter-measures of the study do what their names say."""

import pytest
import torch
import update_leak as study


def test_the_accountant_and_the_changes():
    """1-GDP is (4.377, 1e-5)-DP; noise twice as large has a smaller ε."""
    assert study.epsilon(1.0) == pytest.approx(4.377, abs=2e-3)
    assert study.guarantee("dp z = 10", 1) < study.guarantee("dp z = 1", 1)
    assert study.guarantee("noise 10 rms", 100) < study.guarantee("noise 3 rms", 100)
    assert study.guarantee("none", 1) is None
    generator = torch.Generator().manual_seed(0)
    part = torch.randn(40, 50, generator=generator)
    assert int((study.top(0.1)(part, generator) != 0).sum()) == 200
    assert int(torch.linalg.matrix_rank(study.rank(4)(part, generator))) == 4
    clipped = study.clip(0.5)(part, generator)
    assert float(clipped.abs().max()) == pytest.approx(0.5 * study.rms(part))
    shaken = study.noise(3.0)(part, generator) - part
    assert study.rms(shaken) == pytest.approx(3 * study.rms(part), rel=0.1)
    assert torch.equal(study.rank(1)(part[0], generator), part[0])  # vectors stay


def test_every_person_is_dealt_once(tmp_path):
    """Twenty people in four parts that share none."""
    deal = study.Deal.of(1, tmp_path)
    rows = [deal.file(part).read_text().splitlines() for part in study.PARTS]
    assert [len(part) for part in rows] == [40, 120, 80, 160]
    assert len({line for part in rows for line in part}) == 400
