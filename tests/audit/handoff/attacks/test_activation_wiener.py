"""Wiener's filter in the right directions gains, and in shuffled ones does not."""

import pytest
import torch

from mpu_cli.audit.handoff.directions import Directions

INPUTS, OUTPUTS = 64, 400


@pytest.fixture
def rotated(scene):
    """A task vector that lies in few directions of a basis, and the basis, strongest last."""
    basis = torch.linalg.qr(scene.noise((INPUTS, INPUTS), 1))[0]
    sizes = torch.linspace(-6, 0, INPUTS).exp2()
    task = (scene.noise((OUTPUTS, INPUTS), 2) * sizes) @ basis.T
    return task / task.square().mean().sqrt(), basis


def left(scene, task, vectors, inputs_last=True, size=0.5):
    """The smallest error with these directions."""
    stored = task if inputs_last else task.T
    base = {"matrix": torch.zeros(stored.shape), "norm": torch.zeros(INPUTS)}
    theta = {"matrix": stored, "norm": torch.zeros(INPUTS)}
    copy = {name: theta[name] + size * scene.noise(theta[name].shape, 3) for name in theta}
    directions = {"matrix": Directions(vectors, inputs_last)}
    found = scene.guesses("activation Wiener", scene.layer([copy], base, directions))
    return min(scene.error(guess.tensors, theta, theta) for guess in found.values())


@pytest.mark.parametrize("inputs_last", [True, False])
def test_the_right_directions_gain(scene, rotated, inputs_last):
    """Noise of .5 leaves .447 after one factor, and .32 after one factor for each direction."""
    task, basis = rotated
    signal = (task @ basis).square().mean(dim=0)
    ideal = float((signal * 0.25 / (signal + 0.25)).mean() / signal.mean()) ** 0.5
    assert ideal < 0.33
    assert left(scene, task, basis, inputs_last) == pytest.approx(ideal, rel=0.05)


def test_shuffled_directions_gain_nothing(scene, rotated):
    """In a random basis every direction has the same energy."""
    task, _ = rotated
    other = torch.linalg.qr(scene.noise((INPUTS, INPUTS), 9))[0]
    assert left(scene, task, other) > 0.9 * 0.447


def test_without_directions_there_is_no_guess(scene):
    """The models were not run, or the family fuses its matrices in memory."""
    base = {"matrix": torch.zeros(20, 20)}
    layer = scene.layer([{"matrix": scene.noise((20, 20), 1)}], base)
    assert not scene.guesses("activation Wiener", layer)
