"""PDU: the paper's formula in numpy, the published defaults, and what is special."""

from __future__ import annotations

import pytest
import torch
from method_cases import MethodCase, Values, World, batch_of, fresh, token_mean, values_of, world

from mpu_cli.client import methods


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Squared margins plus the weighted constraint."""
    margins = [(row.z.max(-1) - row.z.mean(-1)) ** 2 for row in now.forget]
    slack = token_mean([row.nll for row in now.retain]) - p["epsilon"]
    return p["gamma"] * token_mean(margins) + p["lambda_start"] * slack


CASE = MethodCase(
    formula,
    published={
        "epsilon": 0.5,
        "gamma": 1.0,
        "lambda_start": 100.0,
        "dual_step": 5.0,
        "warmup_epochs": 5,
        "dual_update": "step",
    },
    required={"epsilon": 0.5},
    training={"warmup_epochs": 1, "lambda_start": 1, "dual_step": 0.1},
    forget_only={"lambda_start": 0},
    only_in_training={"dual_step", "warmup_epochs", "dual_update"},  # tested below
)


def test_dual_variable_follows_every_pass(before: World) -> None:
    """After the warm-up, PDU's λ follows the authors' rule after every forward pass.

    λ ← max(0, λ + step (retain loss − ε)), used one pass later, over three epochs of two passes of
    a moving model; the first epoch is the warm-up.
    """
    model, batch, method = fresh().train(), batch_of(before), methods.get("PDU")
    values = values_of(
        method,
        {"epsilon": 0.5, "gamma": 0.3, "dual_step": 0.1, "warmup_epochs": 1, "lambda_start": 2},
    )
    loss, dual = method.bind(values), 2.0
    for epoch in range(3):
        for _ in range(2):
            now = world(model.eval())
            model.train()
            expected = formula(now, before, now, {**values, "lambda_start": dual})
            assert loss(model, batch).item() == pytest.approx(expected, rel=1e-9)
            if epoch >= 1:
                dual = max(0.0, dual + 0.1 * (token_mean([row.nll for row in now.retain]) - 0.5))
            assert loss.state_dict()["lambda"] == pytest.approx(dual, rel=1e-9)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(0.97)
        loss.end_epoch()
    assert dual > 2.5


def test_dual_variable_may_follow_the_epoch(before: World) -> None:
    """With dual_update=epoch λ moves at the end of epochs, from the warm-up's last on."""
    model = fresh().train()
    batch, method = batch_of(before), methods.get("PDU")
    nll = token_mean([row.nll for row in world(model.eval()).retain])
    model.train()
    changes = {
        "epsilon": 0.5,
        "dual_step": 0.1,
        "warmup_epochs": 2,
        "lambda_start": 1,
        "dual_update": "epoch",
    }
    loss = method.bind(values_of(method, changes))
    for expected in (1, 1 + 0.1 * (nll - 0.5), 1 + 0.2 * (nll - 0.5)):
        for _ in range(2):
            loss(model, batch)
        loss.end_epoch()
        assert loss.state_dict()["lambda"] == pytest.approx(expected, rel=1e-9)
    loss.end_epoch()
    assert loss.state_dict()["lambda"] == pytest.approx(
        1 + 0.2 * (nll - 0.5), rel=1e-9
    )  # an epoch without batches moves nothing


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_the_dual_variable_never_falls_below_zero(update: str, before: World) -> None:
    """A retain loss far below epsilon takes it to 0 and no further."""
    model, batch, method = fresh().train(), batch_of(before), methods.get("PDU")
    slack = method.bind(
        values_of(method, {"epsilon": 1000, "warmup_epochs": 0, "dual_update": update})
    )
    for _ in range(2):
        slack(model, batch)
        slack.end_epoch()
        assert slack.state_dict()["lambda"] == 0


@pytest.mark.parametrize("update", ["step", "epoch"])
def test_state_survives_an_interruption(update: str, before: World) -> None:
    """A loss restored through JSON in the middle of an epoch ends with the same bits."""
    import json

    from mpu_cli.training.stateful import StatefulLoss

    model, batch, method = fresh().train(), batch_of(before), methods.get("PDU")
    values = values_of(method, {"warmup_epochs": 1, "dual_update": update})
    whole = method.bind(values)
    assert isinstance(whole, StatefulLoss)
    assert not isinstance(methods.get("NPO").bind({}), StatefulLoss)
    for _ in range(3):
        whole(model, batch)
    whole.end_epoch()
    whole(model, batch)
    resumed = method.bind(values)
    resumed.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for each in (whole, resumed):
        each(model, batch)
        each.end_epoch()
    assert resumed.state_dict() == whole.state_dict()
    assert resumed(model, batch).item() == whole(model, batch).item()


def test_measuring_does_not_count_into_the_epoch(before: World) -> None:
    """Without gradient or in evaluation mode, PDU's dual variable and sums do not change."""
    model, batch, method = fresh(), batch_of(before), methods.get("PDU")
    for update in ("step", "epoch"):
        loss = method.bind(values_of(method, {"warmup_epochs": 0, "dual_update": update}))
        loss(model.eval(), batch)
        with torch.no_grad():
            loss(model.train(), batch)
        assert loss.state_dict() == {"lambda": 100, "epochs": 0, "nll": 0, "tokens": 0}
