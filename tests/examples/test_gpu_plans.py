"""The plans for GPUs: valid up to the models, which no test machine has."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpu_cli.cli.parse_only import commands
from mpu_cli.errors import BadModelError
from mpu_cli.experiment.graph import build
from mpu_cli.experiment.plan.cells import cells
from mpu_cli.experiment.plan.read import read_plan

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tofu-llama", "open-unlearning/tofu_Llama-3.2-1B-Instruct_full"),
        ("muse-news", str(EXAMPLES / "muse-news" / "theta")),
    ],
)
def test_only_the_model_is_missing(name, model, monkeypatch):
    """Every command line is checked before the model is looked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    known = commands()
    plan = read_plan(EXAMPLES / name / "plan.yaml", known)
    with pytest.raises(BadModelError) as caught:
        build(plan, known)
    assert model in caught.value.message
    chosen = list(cells(plan))
    assert {cell.axes["variant"] for cell in chosen} == {"paper", "ours"}
    assert {cell.value("perturb", "copies") for cell in chosen} == {1, 2, 3}
    assert plan.resources["unlearn"].gpus == 1
