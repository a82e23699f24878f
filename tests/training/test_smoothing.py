"""Smoothing: SAM's gradient in numpy and in Trainer, with accumulation and clipping."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.errors import CheckFailedError
from mpu_cli.modeling.logprobs import token_mean_nll
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.smoothing import SplitLoss, smoothed_gradient
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets
from tiny_models import make_model

RADIUS, RATE = 0.3, 0.05
SETTINGS = TrainingSettings(
    epochs=1,
    learning_rate=RATE,
    batch_size=8,
    device="cpu",
    seed=3,
    optimizer="sgd",
    max_grad_norm=0.0,
    smoothing=RADIUS,
)


def rows(count: int, first: int) -> list[TokenizedRow]:
    """Rows of equal length, so that accumulated means are those of a large batch."""
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(first + i)
        ids = tuple(torch.randint(200, 320, (8,), generator=generator).tolist())
        made.append(TokenizedRow(ids, (IGNORED,) * 3 + ids[3:]))
    return made


FORGET, RETAIN = rows(8, 10), rows(8, 100)


def forget(model: Any, batch: Any) -> torch.Tensor:
    """Gradient ascent, with a weight."""
    return -0.7 * token_mean_nll(model, batch["forget"])


def retain(model: Any, batch: Any) -> torch.Tensor:
    """Descent, with another weight."""
    return 1.3 * token_mean_nll(model, batch["retain"])


LOSS = SplitLoss(forget, retain)


def run(settings: TrainingSettings = SETTINGS, loss: Any = LOSS, model: Any = None) -> Any:
    """The model after training; its report is an attribute."""
    model = make_model() if model is None else model
    inputs = frozenset() if getattr(loss, "retain", None) is None else frozenset({"retain"})
    sets = TrainingSets(FORGET, RETAIN)
    model.report = train(model, loss, inputs, sets, settings, RunContext("cpu"))
    return model


def distance(one: Any, other: Any) -> float:
    """Largest difference between two models' weights."""
    theirs = other.state_dict()
    return max(float((a - theirs[name]).abs().max()) for name, a in one.state_dict().items())


def stepped_by_hand(
    *, retains: bool = True, clip: float = 0.0, frozen: str = "", share: float = 1
) -> Any:
    """One step of gradient descent on SAM's objective, written without `smoothing`."""
    model = make_model()
    batch = {"forget": collate(FORGET, 0), "retain": collate(RETAIN, 0)}
    weights = [p for name, p in model.named_parameters() if name != frozen]
    slopes = torch.autograd.grad(forget(model, batch), weights)
    length = np.sqrt(sum(float(np.square(g.numpy().astype(np.float64)).sum()) for g in slopes))
    elsewhere = make_model()
    moved = [p for name, p in elsewhere.named_parameters() if name != frozen]
    with torch.no_grad():
        for weight, slope in zip(moved, slopes, strict=True):
            weight += RADIUS * slope / length
    total = list(torch.autograd.grad(forget(elsewhere, batch), moved))
    if retains:
        kept = torch.autograd.grad(retain(model, batch), weights)
        total = [one + other for one, other in zip(total, kept, strict=True)]
    norm = np.sqrt(sum(float(g.double().square().sum()) for g in total))
    scale = min(1.0, clip / norm) if clip else 1.0
    with torch.no_grad():
        for weight, slope in zip(weights, total, strict=True):
            weight -= RATE * share * scale * slope
    return model


def test_the_gradient_in_numpy() -> None:
    """On L_f = ½ xᵀAx over two tensors and L_r = bᵀx it is A(x + ρ Ax/‖Ax‖) + b."""
    random = np.random.default_rng(1)
    half, b, x = random.normal(size=(5, 5)), random.normal(size=5), random.normal(size=5)
    a = half @ half.T
    slope = a @ x
    expected = a @ (x + 0.4 * slope / np.linalg.norm(slope)) + b
    parts = [torch.tensor(x[:2], requires_grad=True), torch.tensor(x[2:], requires_grad=True)]

    def add_forget() -> None:
        point = torch.cat(parts)
        (point @ torch.tensor(a) @ point / 2).backward()

    def add_retain() -> None:
        (torch.cat(parts) @ torch.tensor(b)).backward()

    add = {"ascend": add_forget, "forget": add_forget, "retain": add_retain}
    smoothed_gradient(parts, 0.4, **add)
    found = np.concatenate([part.grad.numpy() for part in parts])
    assert found == pytest.approx(expected, rel=1e-12)
    # The weights have their bits again; without perturbation the gradient is another.
    assert np.array_equal(np.concatenate([part.detach().numpy() for part in parts]), x)
    assert found != pytest.approx(slope + b, rel=1e-3)


def test_it_is_the_slope_of_the_perturbed_loss() -> None:
    """Finite differences of L_f(x + δ) + L_r(x), δ fixed, in every coordinate."""
    x = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64, requires_grad=True)

    def loss(point: Any) -> Any:
        return (point[0] * point[1]) ** 3 + np.exp(point[2] * point[0])

    def add() -> None:
        ((x[0] * x[1]) ** 3 + (x[2] * x[0]).exp()).backward()

    add()
    slope = x.grad.numpy().copy()
    delta = 0.2 * slope / np.linalg.norm(slope)
    x.grad = None
    smoothed_gradient([x], 0.2, ascend=add, forget=add, retain=lambda: None)
    origin = x.detach().numpy()
    for i, unit in enumerate(np.eye(3)):
        ends = [loss(origin + delta + step * unit) for step in (1e-6, -1e-6)]
        assert float(x.grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_without_a_slope_nothing_is_perturbed() -> None:
    """A forget loss with gradient 0, or one that reaches no weight, gives a finite result."""
    x = torch.ones(2, requires_grad=True)

    def flat() -> None:
        (0 * x.sum()).backward()

    smoothed_gradient([x], 0.5, ascend=flat, forget=flat, retain=lambda: (2 * x.sum()).backward())
    assert x.grad.tolist() == [2, 2]
    x.grad = None
    smoothed_gradient(
        [x], 0.5, ascend=lambda: None, forget=lambda: None, retain=lambda: x.sum().backward()
    )
    assert x.grad.tolist() == [1, 1]


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_a_step_of_trainer_is_that_by_hand(accumulation: int, clip: float) -> None:
    """One direction for the whole step, however many passes it takes; the sum is clipped."""
    settings = replace(
        SETTINGS,
        batch_size=8 // accumulation,
        gradient_accumulation=accumulation,
        max_grad_norm=clip,
    )
    expected = stepped_by_hand(clip=clip)
    model = run(settings)
    assert model.report.steps == 1
    assert distance(model, expected) <= 2e-7
    # Negative control: plain training ends elsewhere, by more than a thousand times that.
    assert distance(run(replace(settings, smoothing=0.0)), expected) > 2e-4


def test_a_short_step_counts_its_share() -> None:
    """Two passes of sixteen: the direction is the same, the gradient an eighth."""
    settings = replace(SETTINGS, batch_size=4, gradient_accumulation=16, partial_step="share")
    assert distance(run(settings), stepped_by_hand(share=1 / 8)) <= 2e-7


def test_without_a_retain_loss() -> None:
    """The forget term alone."""
    model = run(loss=SplitLoss(forget, None))
    assert distance(model, stepped_by_hand(retains=False)) <= 2e-7


def test_frozen_weights_have_no_part_in_it() -> None:
    """They neither move nor count in the length of the direction."""
    name = "model.embed_tokens.weight"
    model = make_model()
    model.get_parameter(name).requires_grad_(False)
    run(model=model)
    assert distance(model, stepped_by_hand(frozen=name)) <= 2e-7


def test_the_reported_loss_is_that_of_the_weights() -> None:
    """Not of the perturbed ones."""
    settings = replace(SETTINGS, batch_size=4, gradient_accumulation=2)
    plain, smooth = run(replace(settings, smoothing=0.0)), run(settings)
    assert smooth.report.first_loss == pytest.approx(plain.report.first_loss, rel=1e-6)


def test_uneven_steps_and_bits() -> None:
    """Eight rows at batch 3 and accumulation 2 end on a short step; a run repeats its bits."""
    settings = replace(
        SETTINGS, batch_size=3, gradient_accumulation=2, epochs=2, optimizer="adafactor"
    )
    one = run(settings)
    assert one.report.steps == 4
    assert distance(one, run(settings)) == 0 < distance(one, run(replace(settings, smoothing=0.1)))


def test_a_loss_that_is_not_finite_elsewhere() -> None:
    """A NaN at the perturbed weights is found as one at the weights is."""
    calls = 0

    def breaking(model: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return forget(model, batch) * (float("nan") if calls == 2 else 1.0)

    with pytest.raises(CheckFailedError, match="step 1: the loss is nan"):
        run(loss=SplitLoss(breaking, retain))


def test_a_loss_of_one_piece() -> None:
    """Smoothing needs the terms apart."""
    with pytest.raises(ValueError, match="SplitLoss"):
        run(loss=forget)
