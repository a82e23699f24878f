"""Each loss and gradient equal its paper's formula in numpy and the finite differences."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import (
    LAYERS,
    REQUIRED,
    Numbers,
    World,
    batch_of,
    exact,
    memorised_model,
    values_of,
    world,
)

from mpu_cli.client import methods
from tiny_models import make_model

Values = dict[str, Any]
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


def token_mean(rows: list[np.ndarray]) -> float:
    """The mean over all tokens."""
    return float(np.concatenate(rows).mean())


def log_sigmoid(x: float) -> float:
    """The logarithm of the logistic function."""
    return float(-np.log1p(np.exp(-x)))


def softmax(z: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(row: Numbers) -> np.ndarray:
    """(n, V), 1 at each labelled token."""
    return np.eye(row.z.shape[1])[row.y]


def retained(now: World, before: World, p: Values) -> float:
    """The weighted retain loss: token-mean NLL, or KL(reference ‖ model)."""
    if p["retain_loss"] == "NLL":
        return p["alpha"] * token_mean([row.nll for row in now.retain])
    pairs = zip(now.retain, before.retain, strict=True)
    return p["alpha"] * token_mean(
        [(np.exp(q.log_p) * (q.log_p - r.log_p)).sum(-1) for r, q in pairs]
    )


def preferred(now: World, before: World, p: Values) -> float:
    """DPO over sums of log-ratios."""
    terms = []
    for win, win_ref, lose, lose_ref in zip(
        now.alternate, before.alternate, now.forget, before.forget, strict=True
    ):
        ratio = (win_ref.nll.sum() - win.nll.sum()) - (lose_ref.nll.sum() - lose.nll.sum())
        terms.append(-2 / p["beta"] * log_sigmoid(p["beta"] * ratio))
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)


def npo(now: World, before: World, start: World, p: Values) -> float:
    """Row sums against the reference's."""
    pairs = zip(now.forget, before.forget, strict=True)
    terms = [
        -2 / p["beta"] * log_sigmoid(p["beta"] * (row.nll.sum() - ref.nll.sum()))
        for row, ref in pairs
    ]
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)


def simnpo(now: World, before: World, start: World, p: Values) -> float:
    """Row means, no reference; the margin stands outside β."""
    terms = [
        -2 / p["beta"] * log_sigmoid(p["beta"] / len(row.y) * row.nll.sum() - p["delta"])
        for row in now.forget
    ]
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)


def undial(now: World, before: World, start: World, p: Values) -> float:
    """Cross entropy to the reference's lowered logits."""
    pairs = zip(now.forget, before.forget, strict=True)
    entropy = [
        -(softmax(ref.z - p["beta"] * one_hot(ref)) * row.log_p).sum(-1) for row, ref in pairs
    ]
    return p["gamma"] * token_mean(entropy) + (retained(now, before, p) if p["alpha"] else 0.0)


def wga(now: World, before: World, start: World, p: Values) -> float:
    """Ascent weighted by p^β."""
    pairs = zip(now.forget, start.forget, strict=True)
    terms = [np.exp(-fixed.nll) ** p["beta"] * row.nll for row, fixed in pairs]
    return -p["gamma"] * token_mean(terms) + retained(now, before, p)


def satimp(now: World, before: World, start: World, p: Values) -> float:
    """Ascent weighted by p^β1 (1 − p)^β2."""
    terms = []
    for row, fixed in zip(now.forget, start.forget, strict=True):
        probability = np.exp(-fixed.nll)
        terms.append(probability ** p["beta1"] * (1 - probability) ** p["beta2"] * row.nll)
    return -p["gamma"] * token_mean(terms) + retained(now, before, p)


def ce_u(now: World, before: World, start: World, p: Values) -> float:
    """Cross entropy to the model's own prediction without the true token."""
    terms = []
    for row, fixed in zip(now.forget, start.forget, strict=True):
        target = softmax(np.where(one_hot(fixed) == 1, -np.inf, fixed.z))
        terms.append(-(target * row.log_p).sum(-1)[p["ignore_first"] :])
    return p["gamma"] * token_mean(terms)


def rmu(now: World, before: World, start: World, p: Values) -> float:
    """Squared distances, a row's tokens first, then rows."""
    draw = random.Random(f"rmu/{p['seed']}").random
    u = np.array([draw() for _ in range(32)])
    target = p["c"] * u / np.linalg.norm(u)
    forget = [(np.linalg.norm(row.h - target, axis=1) ** 2).mean() for row in now.forget]
    pairs = zip(now.retain, before.retain, strict=True)
    retain = [(np.linalg.norm(row.h - ref.h, axis=1) ** 2).mean() for row, ref in pairs]
    return float(p["gamma"] * np.mean(forget) + p["alpha"] * np.mean(retain))


def pdu(now: World, before: World, start: World, p: Values) -> float:
    """Squared margins plus the weighted constraint."""
    margins = [(row.z.max(-1) - row.z.mean(-1)) ** 2 for row in now.forget]
    slack = token_mean([row.nll for row in now.retain]) - p["epsilon"]
    return p["gamma"] * token_mean(margins) + p["lambda_start"] * slack


FORMULAS: dict[str, Callable[[World, World, World, Values], float]] = {
    "GradAscent": (
        lambda now, before, start, p: -p["gamma"] * token_mean([row.nll for row in now.forget])
    ),
    "GradDiff": lambda now, before, start, p: (
        -p["gamma"] * token_mean([row.nll for row in now.forget]) + retained(now, before, p)
    ),
    "NPO": npo,
    "DPO": lambda now, before, start, p: preferred(now, before, p),
    "AltPO": lambda now, before, start, p: preferred(now, before, p),
    "SimNPO": simnpo,
    "UnDIAL": undial,
    "WGA": wga,
    "SatImp": satimp,
    "CE-U": ce_u,
    "RMU": rmu,
    "PDU": pdu,
}
"""(now, before, start, parameters) → loss; `before` is the reference, `start` has no gradient."""


@pytest.fixture(scope="module")
def before() -> World:
    """The reference's numbers: another model than that under test, so that they matter."""
    return world(exact(make_model(seed=2, num_hidden_layers=LAYERS)))


def fresh(family: str = "llama") -> Any:
    """The model under test, in float64."""
    return exact(make_model(family, seed=1, num_hidden_layers=LAYERS))


@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("name", methods.names())
def test_loss_is_the_papers_formula(name: str, family: str, before: World) -> None:
    """The loss equals the formula evaluated in numpy, row by row, without padding, within 1e-6."""
    method, model = methods.get(name), fresh(family)
    batch, now = batch_of(before), world(model)
    for changes in SETTINGS:
        values = values_of(method, changes)
        found = method.bind(values)(model, batch)
        assert found.shape == ()
        assert found.item() == pytest.approx(FORMULAS[name](now, before, now, values), rel=1e-9)


@pytest.mark.parametrize("name", methods.names())
def test_every_parameter_changes_the_loss(name: str, before: World) -> None:
    """Negative control: the comparison detects a small change of each parameter."""
    # A model that knows the rows: where a token's probability is next to nothing, some weights have
    # no say.
    method, model = methods.get(name), exact(memorised_model())
    batch, now = batch_of(before), world(model)
    values = values_of(
        method, {"alpha": 1, "layer": 1, "delta": 0.5, **({"beta": 1} if name == "UnDIAL" else {})}
    )
    loss = method.bind(values)(model, batch).item()
    later = {"dual_step", "warmup_epochs", "dual_update"}  # tested with the dual variable
    for parameter in method.parameters:
        if parameter.name in later:
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
            assert FORMULAS[name](now, before, now, other) != pytest.approx(loss, rel=1e-5), (
                parameter.name
            )


@pytest.mark.parametrize("changes", SETTINGS[1:])
@pytest.mark.parametrize("name", methods.names())
def test_gradient_is_that_of_the_formula(name: str, changes: Values, before: World) -> None:
    """Along random directions the gradient equals a central difference of the numpy formula."""
    method, model = methods.get(name), fresh()
    values, batch = values_of(method, changes), batch_of(before)
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
            ends.append(FORMULAS[name](world(model), before, start, values))
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


def test_what_is_left_of_nothing_is_zero() -> None:
    """CE-U on answers shorter than the tokens it ignores has loss and gradient 0, not NaN."""
    model, method = memorised_model(), methods.get("CE-U")
    loss = method.bind(values_of(method, {"ignore_first": 50}))(model, batch_of(world(model)))
    loss.backward()
    assert loss.item() == 0
    assert all(bool((w.grad == 0).all()) for w in model.parameters() if w.grad is not None)


def test_steering_vector_is_pinned() -> None:
    """RMU's direction never changes: copies may be trained by different versions of Python."""
    from mpu_cli.client.methods.rmu import steering_vector

    u = steering_vector(4, 0)
    pinned = (0.40232412768996256, 0.8728080696042386, 0.2391871717239971, 0.13831437667469149)
    assert u == pytest.approx(pinned, rel=1e-15)
    assert np.linalg.norm(steering_vector(576, 1)) == pytest.approx(1, rel=1e-14)
    assert min(steering_vector(576, 1)) >= 0
    assert steering_vector(4, 1) != u


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
            expected = pdu(now, before, now, {**values, "lambda_start": dual})
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


def test_required_parameters_are_all_known() -> None:
    """The table of this suite names methods that exist."""
    assert set(REQUIRED) <= set(methods.names()) == set(FORMULAS)
