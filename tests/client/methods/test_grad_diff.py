"""GradDiff: the paper's formula in numpy, the published defaults, and what is special."""

from __future__ import annotations

from method_cases import (
    LAYERS,
    MethodCase,
    Values,
    World,
    batch_of,
    exact,
    fresh,
    retained,
    token_mean,
    values_of,
    world,
)

from mpu_cli.client import methods
from tiny_models import make_model


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Minus the mean loss of a forget token, plus the retain loss."""
    return -p["gamma"] * token_mean([row.nll for row in now.forget]) + retained(now, before, p)


CASE = MethodCase(
    formula,
    published={"gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"},
)


def test_kl_is_zero_at_the_reference() -> None:
    """The KL retain loss is 0 without gradient at the reference, and positive elsewhere."""
    model, method = fresh(), methods.get("GradDiff")
    values = values_of(method, {"gamma": 0, "retain_loss": "KL"})
    loss = method.bind(values)(model, batch_of(world(model)))
    loss.backward()
    assert abs(loss.item()) < 1e-12
    assert max(float(w.grad.abs().max()) for w in model.parameters() if w.grad is not None) < 1e-12
    other = world(exact(make_model(seed=3, num_hidden_layers=LAYERS)))
    assert method.bind(values)(model, batch_of(other)).item() > 0.1
