"""LUNAR: the authors' formula in numpy, the published defaults, and what is special."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from method_cases import (
    FORGET,
    RETAIN,
    UNANSWERABLE,
    MethodCase,
    Values,
    World,
    batch_of,
    fresh,
    memorised_model,
    values_of,
    world,
)

from mpu_cli.client import methods
from mpu_cli.errors import UsageError
from mpu_cli.modeling.hidden import freeze_all_but_down, last_prompt_hidden, resolve_layer
from mpu_cli.training.reference import prepare
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets
from tiny_models import make_model

DOWN = "model.layers.1.mlp.down_proj.weight"


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Mean squares over the D entries of every prompt token, all rows' tokens together."""
    shift = p["c"] * before.direction
    pairs = zip(now.forget, before.forget, strict=True)
    forget = np.concatenate([row.prompt - (ref.prompt + shift) for row, ref in pairs])
    pairs = zip(now.retain, before.retain, strict=True)
    retain = np.concatenate([row.prompt - ref.prompt for row, ref in pairs])
    return float(p["gamma"] * (forget**2).mean() + p["alpha"] * (retain**2).mean())


CASE = MethodCase(
    formula,
    published={"c": 2.0, "layer": -2, "gamma": 1.0, "alpha": 1.0},
    # One matrix redirects little in six steps; its authors' rate is a thousand times the others'.
    training={"c": 4.0},
    rate=10.0,
    trains=DOWN,
    recommended=False,
)


def test_it_starts_at_the_length_of_the_shift() -> None:
    """On the model itself the loss is γ c² ‖r‖² / D, and the retain rows cost nothing."""
    model, method = fresh(), methods.get("LUNAR")
    before = world(model)
    value = method.bind(values_of(method, {"layer": 1, "gamma": 0.5}))(model, batch_of(before))
    assert value.item() == pytest.approx(0.5 * 4 * np.square(before.direction).mean(), rel=1e-9)


def test_references_are_those_of_the_rows() -> None:
    """The direction and the prompts' states, measured in batches with padding."""
    model = make_model(seed=1, num_hidden_layers=4)
    method = methods.get("LUNAR")
    inputs = method.inputs_with(values_of(method, {"layer": 1}))
    sets = TrainingSets(FORGET, RETAIN, 0, None, UNANSWERABLE)
    rows = prepare(model, inputs, sets, TrainingSettings(batch_size=2, device="cpu"))
    reference, expected = rows.batch([(2, 1), (0, 2)])["reference"], world(model)
    rows.close()
    near = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(reference["direction"], expected.direction, **near)
    for name, own in (
        ("forget", [expected.forget[2], expected.forget[0]]),
        ("retain", [expected.retain[1], expected.retain[2]]),
    ):
        states = np.concatenate([row.prompt for row in own])
        np.testing.assert_allclose(reference[f"{name}_prompt_hidden"], states, **near)


def trained() -> Any:
    """A model that knows its rows, after LUNAR at layer 1."""
    method, model = methods.get("LUNAR"), memorised_model()
    values = values_of(method, {"layer": 1, "c": 4.0})
    settings = TrainingSettings(
        epochs=60, learning_rate=1e-2, batch_size=3, device="cpu", optimizer="adamw"
    )
    sets = TrainingSets(FORGET, RETAIN, 0, None, UNANSWERABLE)
    loss = method.bind(values)
    train(model, loss, method.inputs_with(values), sets, settings, RunContext("cpu"))
    return model


def test_forget_prompts_go_where_they_are_sent() -> None:
    """They end nearer to the shifted states than they began, and retain prompts stay nearer."""
    before, after = world(memorised_model()), world(trained())
    length = np.linalg.norm(4 * before.direction)

    def moved(rows: list[Any], origin: list[Any]) -> np.ndarray:
        return np.concatenate([a.prompt - b.prompt for a, b in zip(rows, origin, strict=True)])

    forget = moved(after.forget, before.forget)
    along = forget @ before.direction / np.linalg.norm(before.direction)
    assert along.mean() > 0.6 * length
    kept = np.linalg.norm(moved(after.retain, before.retain), axis=1).mean()
    assert kept < 0.4 * np.linalg.norm(forget, axis=1).mean()


def test_only_prompts_are_read() -> None:
    """Other answers of the unanswerable questions change nothing."""
    model = make_model(num_hidden_layers=4)
    rows = {
        "input_ids": torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 7, 8, 9], [-100, -100, 7, -100, -100]]),
    }
    with torch.no_grad():
        first, second = last_prompt_hidden(model, rows, 1)
    assert torch.allclose(first, second, atol=1e-6)


def test_layers_by_their_share() -> None:
    """−2 is layer 22 of the 32 that the authors used, and is the last layer of no model but one."""
    assert [resolve_layer(-2, count) for count in (32, 16, 4, 3, 2)] == [22, 11, 2, 1, 0]
    assert resolve_layer(-1, 16) == 7
    assert resolve_layer(31, 32) == 31
    with pytest.raises(UsageError, match="--set layer=32"):
        resolve_layer(32, 32)


def test_models_in_which_nothing_can_be_trained() -> None:
    """Experts have no single down projection, and an adapter may be elsewhere."""
    with pytest.raises(UsageError, match="layer 1 of this model has 0") as caught:
        freeze_all_but_down(make_model("mixtral", num_hidden_layers=4), 1)
    assert caught.value.exit_code == 2
    model = make_model(num_hidden_layers=4)
    model.requires_grad_(False)
    with pytest.raises(UsageError, match="has no adapter") as caught:
        freeze_all_but_down(model, 1)
    assert "--lora-targets down" in str(caught.value.hint)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_the_matrix_of_each_family(family: str) -> None:
    """What the family's file calls the down projection, by whatever name, without its bias."""
    model = make_model(family, num_hidden_layers=4)
    freeze_all_but_down(model, 2)
    found = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    name = "transformer.h.2.mlp.c_proj.weight" if family == "gpt2" else DOWN.replace("1", "2")
    assert found == [name]
