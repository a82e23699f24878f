"""Smoothing around every method: its terms apart, training, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from method_cases import (
    ALTERNATES,
    FORGET,
    RETAIN,
    UNANSWERABLE,
    World,
    batch_of,
    fresh,
    memorised_model,
    method_case,
    values_of,
)
from optimizer_cases import optimizer_case

from mpu_cli.client import methods
from mpu_cli.client.methods._split import split
from mpu_cli.errors import UsageError
from mpu_cli.modeling.logprobs import answer_nll
from mpu_cli.training import optimizers
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets

WITHOUT = {"PDU"}
"""Methods with a state that moves with every pass."""
NAMES = [name for name in methods.names() if name not in WITHOUT]
WEIGHTS = [
    {"layer": 1},
    {"layer": 1, "gamma": 0.3, "alpha": 1.7, "retain_loss": "KL"},
    {"layer": 1, "alpha": 0},
]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_terms_are_the_method(name: str, weights: dict[str, Any], before: World) -> None:
    """Forget and retain term add up to the loss and to its gradient, and share no rows."""
    method, model, batch = methods.get(name), fresh(), batch_of(before)
    values = values_of(method, weights)
    parts = split(method, values)
    assert (parts.retain is None) == (not values.get("alpha"))
    trained = list(model.parameters())
    whole, summed = method.bind(values)(model, batch), parts(model, batch)
    assert summed.item() == pytest.approx(whole.item(), rel=1e-12)
    slopes = [torch.autograd.grad(loss, trained, allow_unused=True) for loss in (whole, summed)]
    for one, other in zip(*slopes, strict=True):
        assert one is other is None or torch.allclose(one, other, rtol=1e-9, atol=1e-12)
    if parts.retain is not None:
        doubled = split(method, {**values, "gamma": 2 * float(values["gamma"])})
        assert doubled.retain is not None
        assert doubled.retain(model, batch).item() == parts.retain(model, batch).item()
        without = {key: value for key, value in batch.items() if key != "retain"}
        assert torch.isfinite(parts.forget(model, without))


def trained(name: str, **changes: Any) -> Any:
    """The model after six smoothed steps of two passes."""
    method, model = methods.get(name), memorised_model()
    values = values_of(method, {"gamma": 1, "alpha": 0.1, "layer": 1, **method_case(name).training})
    shared = {
        "epochs": 6,
        "learning_rate": 1e-3,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "device": "cpu",
        "optimizer": "adamw",
        "smoothing": 0.05,
    }
    sets = TrainingSets(FORGET, RETAIN, 0, ALTERNATES, UNANSWERABLE)
    settings = TrainingSettings(**{**shared, **changes})
    inputs = method.inputs_with(values)
    train(model, split(method, values), inputs, sets, settings, RunContext("cpu"))
    return model


@pytest.mark.parametrize("name", NAMES)
def test_every_method_forgets_with_smoothing(name: str) -> None:
    """The rows become less probable, and a second run gives the same bits."""
    model, again = trained(name), trained(name)
    assert all(torch.equal(one, again.state_dict()[key]) for key, one in model.state_dict().items())
    nll = [sum(each for each, _ in answer_nll(m, FORGET, 3, 0)) for m in (memorised_model(), model)]
    assert nll[0] < nll[1] < float("inf")


@pytest.mark.parametrize("optimizer", optimizers.names())
def test_every_optimizer_takes_the_smoothed_gradient(optimizer: str) -> None:
    """The rows become less probable, and the weights are others than without smoothing."""
    rate = optimizer_case(optimizer).rate
    smooth, plain = (
        trained("NPO", optimizer=optimizer, learning_rate=rate, smoothing=radius)
        for radius in (0.05, 0)
    )
    nll = [
        sum(each for each, _ in answer_nll(m, FORGET, 3, 0)) for m in (memorised_model(), smooth)
    ]
    assert nll[0] < nll[1] < float("inf")
    states = smooth.state_dict(), plain.state_dict()
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_smoothing_with_gradient_checkpointing() -> None:
    """Activations that are computed again at the perturbed weights give the same result."""
    one, other = trained("NPO").state_dict(), trained("NPO", gradient_checkpointing=True)
    near = other.state_dict()
    assert all(torch.allclose(value, near[key], atol=1e-6) for key, value in one.items())


def test_smoothing_under_autocast() -> None:
    """With bfloat16 forward passes, smoothing still changes the float32 weights."""
    states = [
        trained("NPO", precision="bfloat16", smoothing=radius).state_dict() for radius in (0, 0.05)
    ]
    assert all(bool(value.isfinite().all()) for value in states[1].values())
    assert any(not torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", sorted(WITHOUT))
def test_what_cannot_be_taken_apart(name: str) -> None:
    """PDU's weight moves with every forward pass, so its terms are not smoothed."""
    method = methods.get(name)
    with pytest.raises(UsageError, match=f"--smoothing: .* of {name} cannot") as caught:
        split(method, values_of(method))
    assert caught.value.exit_code == 2 and caught.value.hint
