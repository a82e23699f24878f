"""Each loss and gradient equal its paper's formula in numpy and the finite differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from method_cases import (
    Values,
    World,
    batch_of,
    exact,
    fresh,
    memorised_model,
    method_case,
    values_of,
    world,
)

from mpu_cli.client import methods

OTHER = {
    "gamma": 0.3,
    "alpha": 1.7,
    "beta": 0.8,
    "beta1": 1.5,
    "beta2": 0.6,
    "delta": 0.4,
    "c": 3.5,
    "layer": 1,
    "seed": 3,
    "ignore_first": 2,
    "epsilon": 0.25,
    "lambda_start": 2.5,
}
SETTINGS = [{"layer": 1}, OTHER, {**OTHER, "retain_loss": "KL"}]


def settings_of(method: methods.MethodInfo, changes: Values) -> Values:
    """Values with these changes; where OTHER has none for a number, it is half as large again."""
    scaled = {
        parameter.name: 1.5 * parameter.default
        for parameter in method.parameters
        if parameter.type is float and parameter.default is not None and "gamma" in changes
    }
    return values_of(method, {**scaled, **changes})


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", methods.names())
def test_loss_is_the_papers_formula(name: str, family: str, before: World) -> None:
    """The loss equals the formula evaluated in numpy, row by row, without padding, within 1e-6."""
    method, model, formula = methods.get(name), fresh(family), method_case(name).formula
    batch, now = batch_of(before), world(model)
    for changes in SETTINGS:
        values = settings_of(method, changes)
        loss = method.bind(values)(model, batch)
        assert loss.shape == ()
        assert loss.item() == pytest.approx(formula(now, before, now, values), rel=1e-9)


@pytest.mark.parametrize("name", methods.names())
def test_every_parameter_changes_the_loss(name: str, before: World) -> None:
    """Negative control: the comparison detects a small change of each parameter."""
    # A model that knows the rows: where a token's probability is next to nothing, some weights have
    # no say.
    method, model, case = methods.get(name), exact(memorised_model()), method_case(name)
    batch, now = batch_of(before), world(model)
    values = values_of(method, {"alpha": 1, "layer": 1, **case.sensitive})
    loss = method.bind(values)(model, batch).item()
    for parameter in method.parameters:
        if parameter.name in case.only_in_training:
            continue
        old = values[parameter.name]
        changed = (
            {"NLL": "KL"}.get(old)
            if isinstance(old, str)
            else old + 1
            if isinstance(old, int)
            else old * 1.1
        )
        other = {**values, parameter.name: changed}
        assert method.bind(other)(model, batch).item() != pytest.approx(loss, rel=1e-5), (
            parameter.name
        )
        if parameter.name != "layer":
            assert case.formula(now, before, now, other) != pytest.approx(loss, rel=1e-5), (
                parameter.name
            )


@pytest.mark.parametrize("changes", SETTINGS[1:])
@pytest.mark.parametrize("name", methods.names())
def test_gradient_is_that_of_the_formula(name: str, changes: Values, before: World) -> None:
    """Along random directions the gradient equals a central difference of the numpy formula."""
    method, model = methods.get(name), fresh()
    values, batch = settings_of(method, changes), batch_of(before)
    weights, start = list(model.parameters()), world(model)
    method.bind(values)(model, batch).backward()
    origin = [weight.detach().clone() for weight in weights]
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        direction = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in weights]
        slope = sum(
            float((w.grad * d).sum())
            for w, d in zip(weights, direction, strict=True)
            if w.grad is not None
        )
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                for weight, value, d in zip(weights, origin, direction, strict=True):
                    weight.copy_(value + step * d)
            ends.append(method_case(name).formula(world(model), before, start, values))
        assert slope == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", methods.names())
def test_only_declared_needs_are_read(name: str, before: World) -> None:
    """A loss runs on exactly the inputs that it declares, and fails if one is missing."""
    method, model = methods.get(name), fresh()
    batch = batch_of(before)
    for changes in ({}, {"retain_loss": "KL", "alpha": 1}, {"alpha": 0}):
        values = values_of(method, changes)
        needs = {need for need in method.inputs_with(values) if not need.startswith("hidden")} | {
            "forget"
        }

        def only(names: set[str]) -> dict[str, Any]:
            rows = {name: batch[name] for name in names if name in batch}
            return {
                **rows,
                "reference": {
                    name: batch["reference"][name] for name in names if name in batch["reference"]
                },
            }

        assert torch.isfinite(method.bind(values)(model, only(needs)))
        for missing in needs:
            with pytest.raises(KeyError):
                method.bind(values)(model, only(needs - {missing}))


@pytest.mark.parametrize("name", ["NPO", "DPO", "AltPO"])
def test_starts_at_two_over_beta_log_two(name: str) -> None:
    """Where model and reference agree, a preference loss is (2/β) log 2."""
    model, method = fresh(), methods.get(name)
    batch = batch_of(world(model))
    value = method.bind(values_of(method, {"alpha": 0, "beta": 0.25}))(model, batch)
    assert value.item() == pytest.approx(8 * np.log(2), rel=1e-9)
