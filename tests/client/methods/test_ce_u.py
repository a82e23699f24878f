"""CE-U: the paper's formula in numpy, the published defaults, and what is special."""

from __future__ import annotations

import numpy as np
from method_cases import (
    MethodCase,
    Values,
    World,
    batch_of,
    memorised_model,
    one_hot,
    softmax,
    token_mean,
    values_of,
    world,
)

from mpu_cli.client import methods


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Cross entropy to the model's own prediction without the true token."""
    terms = []
    for row, fixed in zip(now.forget, start.forget, strict=True):
        target = softmax(np.where(one_hot(fixed) == 1, -np.inf, fixed.z))
        terms.append(-(target * row.log_p).sum(-1)[p["ignore_first"] :])
    return p["gamma"] * token_mean(terms)


CASE = MethodCase(
    formula,
    published={"gamma": 1.0, "ignore_first": 1},
    weighted=True,
)


def test_what_is_left_of_nothing_is_zero() -> None:
    """CE-U on answers shorter than the tokens it ignores has loss and gradient 0, not NaN."""
    model, method = memorised_model(), methods.get("CE-U")
    loss = method.bind(values_of(method, {"ignore_first": 50}))(model, batch_of(world(model)))
    loss.backward()
    assert loss.item() == 0
    assert all(bool((w.grad == 0).all()) for w in model.parameters() if w.grad is not None)
