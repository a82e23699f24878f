"""Every method with every optimizer on a tiny model that knows its rows by heart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from method_cases import (
    ALTERNATES,
    FORGET,
    RETAIN,
    UNANSWERABLE,
    memorised_model,
    method_case,
    values_of,
)
from optimizer_cases import optimizer_case

from mpu_cli.client import methods
from mpu_cli.data.batches import collate
from mpu_cli.modeling.logprobs import answer_nll
from mpu_cli.training import optimizers
from mpu_cli.training.reference import prepare
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets


def settings(optimizer: str, rate: float = 1.0, **changes: Any) -> TrainingSettings:
    """A short run: 6 steps."""
    shared = {
        "epochs": 3,
        "learning_rate": rate * optimizer_case(optimizer).rate,
        "batch_size": 2,
        "device": "cpu",
        "optimizer": optimizer,
    }
    return TrainingSettings(**{**shared, **changes})


def trained(name: str, optimizer: str, changes: dict[str, Any], **options: Any) -> Any:
    """The model after unlearning by that method."""
    method, model = methods.get(name), memorised_model()
    values = values_of(method, changes)
    inputs = method.inputs_with(values)
    train(
        model,
        method.bind(values),
        inputs,
        TrainingSets(FORGET, RETAIN, 0, ALTERNATES, UNANSWERABLE),
        settings(optimizer, method_case(name).rate, **options),
        RunContext("cpu"),
    )
    return model


def forget_loss(name: str, model: Any) -> float:
    """The method's own forget term, its reference the model before unlearning."""
    method = methods.get(name)
    values = values_of(method, {"alpha": 0, "gamma": 1, **method_case(name).forget_only})
    everything = set(method.inputs_with(values)) | {"forget_nll"}
    before = prepare(
        memorised_model(),
        everything,
        TrainingSets(FORGET, RETAIN, 0, ALTERNATES, UNANSWERABLE),
        settings("adamw"),
    )
    try:
        batch = before.batch([(0, 0), (1, 1), (2, 2)])
    finally:
        before.close()
    with torch.no_grad():
        return float(method.bind(values)(model, batch))


FAST = ("adamw", "adafactor")
OPTIMIZERS = [
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in optimizers.names()
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", methods.names())
def test_methods_and_optimizers(name: str, optimizer: str) -> None:
    """The forget loss and the rows' probability fall, and two runs give the same bits.

    What neither loss reaches (RMU: the layers above its own) and embeddings do not move; all else
    does.
    """
    case = method_case(name)
    # With the retain loss at full weight, six steps would show that loss rather than forgetting.
    changes = {"gamma": 1, "alpha": 0.1, "layer": 1, **case.training}
    model, again, before = (
        trained(name, optimizer, changes),
        trained(name, optimizer, changes),
        memorised_model(),
    )
    state, origin = model.state_dict(), before.state_dict()
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in state.items())
    still = {key for key in origin if torch.equal(origin[key], state[key])}
    beyond = {
        key
        for key in origin
        if case.layers_above_stay
        and key.startswith(("model.layers.2", "model.layers.3", "model.norm"))
    }
    if case.trains:
        assert set(origin) - still == {case.trains}
    else:
        assert still == {"model.embed_tokens.weight", "lm_head.weight"} | beyond
    if not case.weighted:
        assert forget_loss(name, model) < forget_loss(name, before)
    nll = [sum(each for each, _ in answer_nll(m, FORGET, 3, 0)) for m in (before, model)]
    assert nll[1] > nll[0]


def test_satimp_forgets_with_its_own_defaults() -> None:
    """γ = 1 and α = .1 forget; swapped, as in another project's YAML, they hardly do."""

    def probability(changes: dict[str, Any]) -> float:
        model = trained("SatImp", "adamw", changes, epochs=12, learning_rate=2e-3)
        return sum(
            math.exp(-nll / tokens) for nll, tokens in answer_nll(model, FORGET, 3, 0)
        ) / len(FORGET)

    known = sum(
        math.exp(-nll / tokens) for nll, tokens in answer_nll(memorised_model(), FORGET, 3, 0)
    ) / len(FORGET)
    own, inverted = probability({}), probability({"gamma": 0.1, "alpha": 1})
    assert own < 0.5 * known
    assert inverted > 0.8 * known


@pytest.mark.parametrize("name", ["NPO", "GradDiff", "UnDIAL"])
def test_kl_keeps_the_retain_rows(name: str) -> None:
    """With the KL retain loss the retain rows end closer to what they were than without any."""

    def loss_of_retain(alpha: float) -> float:
        model = trained(name, "adamw", {"gamma": 1, "alpha": alpha, "retain_loss": "KL"}, epochs=4)
        return sum(nll for nll, _ in answer_nll(model, RETAIN, 3, 0))

    assert loss_of_retain(5) < loss_of_retain(0)


def test_bfloat16_autocast() -> None:
    """References on disk and hidden states work under autocast too."""
    for name, changes in (
        ("UnDIAL", {}),
        ("RMU", {"layer": 1}),
        ("GradDiff", {"retain_loss": "KL"}),
    ):
        model = trained(name, "adamw", changes, precision="bfloat16")
        assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
        assert forget_loss(name, model) < forget_loss(name, memorised_model())


def test_padding_does_not_matter() -> None:
    """A batch's loss is the one that its rows' own numbers give, in any order."""
    model = memorised_model()
    rows = prepare(model, {"forget_logits"}, TrainingSets(FORGET), settings("adamw"))
    method = methods.get("UnDIAL")
    loss = method.bind(values_of(method))
    one, other = (
        loss(model, rows.batch([(i, None) for i in order])).item()
        for order in ((0, 1, 2), (2, 0, 1))
    )
    assert one == pytest.approx(other, rel=1e-6)
    wrong = rows.batch([(0, None), (1, None), (2, None)])
    wrong["forget"] = collate([FORGET[i] for i in (1, 0, 2)], 0)
    assert loss(model, wrong).item() != pytest.approx(one, rel=1e-3)
    rows.close()
