"""The maths of a structured offset, and its attackers, on matrices with a known law."""

import pytest
import torch
from offset_attacks import ATTACKS, SIBLING_ATTACKS, Seen
from offset_shape import KINDS, Moments, Shape, block_mean, drawn, level_for, predicted, shape_of

ROWS, COLUMNS = 96, 160


def a_shape(task=None, seed=0):
    """Costs over four decades; the task vector is Gaussian with more energy where they are high."""
    generator = torch.Generator().manual_seed(seed)
    gamma, lam = (torch.logspace(1.3, -3, length) for length in (ROWS, COLUMNS))
    gamma, lam = gamma / gamma.mean(), lam / lam.mean()
    spread = (gamma[:, None] + 0.03).sqrt() * (lam[None, :] + 0.03).sqrt()
    plain = torch.randn(ROWS, COLUMNS, generator=generator) * block_mean(spread).sqrt()
    task = plain if task is None else task
    eyes = torch.eye(ROWS), torch.eye(COLUMNS)
    rms = float(task.square().mean().sqrt())
    return Shape("model.layers.0.a.weight", *eyes, gamma, lam, task / rms, 1.0)


def left(attack, shape, kind, level, sibling=None, seed=1):
    """What one attack leaves of one draw."""
    noise = KINDS[kind](shape, level)
    seen = Seen(shape.task + drawn(shape, noise, seed), noise, shape.energy, sibling)
    return float((attack(seen) - shape.task).norm() / shape.task.norm())


@pytest.mark.parametrize("leak", [0.1, 0.3, 0.7])
def test_a_level_leaves_what_was_asked_for_at_the_least_cost(leak):
    """Wiener finds what is predicted; no other variance with that leak costs less."""
    shape = a_shape()
    costs = {}
    for kind in KINDS:
        level = level_for(kind, [shape], leak)
        assert predicted(kind, [shape], level) == pytest.approx(leak, rel=1e-3)
        assert left(ATTACKS["Wiener"], shape, kind, level) == pytest.approx(leak, rel=0.04)
        costs[kind] = float((shape.cost * KINDS[kind](shape, level)).sum())
    assert costs["structured"] < (0.5 if leak < 0.5 else 0.85) * min(
        costs["white"], costs["proportional"]
    )
    # A small change of S that keeps Σ e S / (e + S) to first order never lowers Σ w S.
    noise = structured = KINDS["structured"](shape, level_for("structured", [shape], leak))
    slope = (shape.energy / (shape.energy + noise)).square()
    price = shape.cost / slope
    active = structured > 0
    assert float(price[active].max() / price[active].min()) == pytest.approx(1, rel=1e-3)
    assert bool((price[~active] >= price[active].min() * 0.999).all())


def test_no_attack_beats_wiener_on_a_task_vector_without_structure():
    """Negative control: Gaussian entries and an unrelated sibling give nothing more."""
    shape, sibling = a_shape(), a_shape(seed=7).task
    for kind in ("white", "structured"):
        level = level_for(kind, [shape], 0.5)
        least = left(ATTACKS["Wiener"], shape, kind, level)
        for attack in (*ATTACKS.values(), *SIBLING_ATTACKS.values()):
            assert left(attack, shape, kind, level, sibling) > 0.97 * least


def test_attacks_find_the_structure_that_they_look_for():
    """A task vector of rank 4; a sibling that is half the task vector, and one that is all."""
    generator = torch.Generator().manual_seed(3)
    thin = torch.randn(ROWS, 4, generator=generator) @ torch.randn(4, COLUMNS, generator=generator)
    shape = a_shape(thin)
    for kind in ("white", "structured"):
        level = level_for(kind, [shape], 0.5)
        least = left(ATTACKS["Wiener"], shape, kind, level)
        assert min(left(each, shape, kind, level) for each in ATTACKS.values()) < 0.6 * least
    shape = a_shape()
    half = shape.task + a_shape(seed=9).task
    for kind in ("white", "structured"):
        level = level_for(kind, [shape], 0.5)
        least = left(ATTACKS["Wiener"], shape, kind, level)
        mean = SIBLING_ATTACKS["sibling, mean"]
        assert left(mean, shape, kind, level, half) < 0.92 * least
        assert left(mean, shape, kind, level, shape.task) < 0.35 * least


def test_moments_are_those_of_the_tokens_that_the_loss_depends_on():
    """E[xxᵀ] and E[δδᵀ] of a linear layer, summed over two passes; a no-grad pass adds nothing."""
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"model": torch.nn.ModuleDict()})
    model["model"]["layers"] = torch.nn.ModuleList([torch.nn.Linear(3, 2, bias=False)])
    layer = model["model"]["layers"][0]
    x, weights = torch.randn(2, 5, 3), torch.randn(2, 5, 2)
    weights[:, 3:] = 0
    moments = Moments(model)
    with torch.no_grad():
        layer(x)
    for _ in range(2):
        (layer(x) * weights).sum().backward()
    moments.close()
    name = "model.layers.0.weight"
    used, delta = x[:, :3].reshape(-1, 3), weights[:, :3].reshape(-1, 2)
    torch.testing.assert_close(moments.inputs[name], 2 * used.T @ used)
    torch.testing.assert_close(moments.gradients[name], 2 * delta.T @ delta)
    task = torch.randn(2, 3)
    shape = shape_of(name, task, moments, 1.0)
    torch.testing.assert_close(shape.from_basis(shape.task), task)
    assert shape.lam[0] >= shape.lam[-1] and float(shape.lam.mean()) == pytest.approx(1)
