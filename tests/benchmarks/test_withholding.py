"""benchmarks/withholding.py and withheld_unlearning.py: what is stitched, and what is printed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("torch")

import torch
from withheld_unlearning import tables as unlearning_tables
from withheld_unlearning import unanswerable
from withholding import divergence, probability, stitch, unsent_share
from withholding_tables import EMBEDDINGS, NOTHING, read, tables, write

from tiny_models import make_model

LAYERS = 3


@pytest.fixture
def models():
    """θ, a base, and a model to stitch."""
    return [make_model(seed=seed, num_hidden_layers=LAYERS) for seed in (1, 2, 3)]


@pytest.mark.parametrize("layer", [NOTHING, EMBEDDINGS, 0, 1])
def test_a_stitched_model(models, layer) -> None:
    """θ up to the layer, the base above; what was not sent is what is tuned."""
    theta, base, model = models
    trained = {id(parameter) for parameter in stitch(model, theta, base, layer)}
    for (name, mine), new, old in zip(
        model.named_parameters(), theta.parameters(), base.parameters(), strict=True
    ):
        number = int(name.split(".")[2]) if ".layers." in name else None
        held = layer != NOTHING and (
            number <= layer if number is not None else "embed_tokens" in name
        )
        assert torch.equal(mine, new if held else old), name
        assert (id(mine) in trained) == (not held), name


def test_shares(models) -> None:
    """All is unsent if nothing was sent, and less with every layer."""
    theta, base, _ = models
    shares = [unsent_share(theta, base, layer) for layer in range(NOTHING, LAYERS)]
    assert shares[0] == 1
    assert shares == sorted(shares, reverse=True)


def test_divergence_and_probability() -> None:
    """By hand: KL of (1/2, 1/2) from (1/4, 3/4), and the geometric mean of a row's tokens."""
    half, skewed = (torch.tensor([p]).log() for p in ([0.5, 0.5], [0.25, 0.75]))
    token = torch.tensor([0])
    expected = float(0.5 * torch.tensor(0.5 / 0.25 * 0.5 / 0.75).log())
    assert divergence([(half, token)], [(skewed, token)]) == pytest.approx(expected)
    both = torch.cat([half, skewed]), torch.tensor([0, 0])
    assert probability([both]) == pytest.approx((0.5 * 0.25) ** 0.5)


def test_questions_are_the_same_each_time(tmp_path) -> None:
    """Nothing is drawn from the clock, and no question occurs twice."""
    texts = [unanswerable(tmp_path / str(number), 5).read_text() for number in range(2)]
    rows = [json.loads(line) for line in texts[0].splitlines()]
    assert texts[0] == texts[1]
    assert len({row["question"] for row in rows}) == 5


def test_tables(tmp_path) -> None:
    """What is written is read, and regained is a share of the gap."""
    fixed = {"seed": 0.0, "kl_base": 2.0, "base": 0.2, "theta": 1.0}
    rows = [fixed | {"layer": 1.0, "rows": 0.0, "kl": 0.5, "probability": 0.6, "unsent": 0.25}]
    write(tmp_path / "rows.csv", rows)
    assert read(tmp_path / "rows.csv") == rows
    assert tables(rows).splitlines()[1].split()[:7] == [
        "1",
        "0",
        "0.250",
        "0.500",
        "0.750",
        "0.600",
        "0.500",
    ]
    measured = dict.fromkeys(("retain", "4-bit", "relearned", "leak@1", "leak@8"), 0.5)
    one = {"layer": -1.0, "seed": 0.0, "forget": 0.1} | measured
    two = one | {"method": "RMU", "layer": 1.0, "forget": 0.3}
    assert "0.200" in unlearning_tables([one | {"method": "NPO"}, two]).splitlines()[2]
