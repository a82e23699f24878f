"""Shrinkage of singular values finds what is of low rank, and nothing in what is white."""

import numpy as np
import pytest
import torch

from mpu_cli.audit.handoff.attacks.singular_values import SingularValues, marchenko_pastur

SHAPES = {"wide": (96, 256), "tall": (256, 96), "square": (128, 128), "norm": (128,)}


def scenes(scene, task, size):
    """A base, θ = base + task vector of RMS 1, and one copy with noise of this size."""
    base = {name: scene.noise(shape, 1) for name, shape in SHAPES.items()}
    theta = {name: base[name] + task[name] for name in base}
    copy = {name: theta[name] + size * scene.noise(SHAPES[name], 2) for name in base}
    return scene.layer([copy], base), theta


def low_rank(scene, rank):
    """A task vector of this rank and RMS 1; that of the norm is full, as it has no rank."""
    task = {}
    for name, shape in SHAPES.items():
        if len(shape) == 1:
            task[name] = scene.noise(shape, 3)
        else:
            task[name] = scene.noise((shape[0], rank), 3) @ scene.noise((rank, shape[1]), 4)
        task[name] /= task[name].square().mean().sqrt()
    return task


def test_a_task_vector_of_low_rank_comes_back(scene):
    """Rank 2 under noise of .3: about .3·√(2(n + p)/(np)), a quarter of the noise."""
    task = low_rank(scene, 2)
    layer, theta = scenes(scene, task, 0.3)
    count = sum(2 * (n + p) for n, p in ((96, 256), (256, 96), (128, 128))) + 128
    expected = 0.3 * (count / sum(np.prod(shape) for shape in SHAPES.values())) ** 0.5
    found = scene.guesses("singular values", layer)
    assert scene.error(found["noise read from the median"].tensors, theta, task) == pytest.approx(
        expected, rel=0.15
    )


def test_a_white_task_vector_does_not(scene):
    """Full rank: no estimate is better than the best linear one, s/√(1 + s²)."""
    task = {name: scene.noise(shape, 3) for name, shape in SHAPES.items()}
    layer, theta = scenes(scene, task, 0.2)
    for guess in scene.guesses("singular values", layer).values():
        assert scene.error(guess.tensors, theta, task) > 0.97 * 0.2 / (1 + 0.2**2) ** 0.5


def test_stacked_experts_are_matrices_of_their_own(scene):
    """(E, n, p): every expert's matrix is shrunk by itself."""
    task = scene.noise((3, 64, 1), 3) @ scene.noise((3, 1, 80), 4)
    base = {"experts": torch.zeros(3, 64, 80)}
    layer = scene.layer([{"experts": task + 0.3 * scene.noise((3, 64, 80), 2)}], base)
    found = scene.guesses("singular values", layer)["noise read from the median"]
    assert scene.error(found.tensors, {"experts": task}, {"experts": task}) < 0.1


def test_there_is_nothing_to_shrink_without_a_base(scene):
    """The weights of a model are no task vector."""
    from mpu_cli.audit.handoff.attacks import all_attacks
    from mpu_cli.audit.handoff.attacks._attack import CopyPool

    assert all_attacks()["singular values"].start(CopyPool((0,), has_base=False)) is None


@pytest.mark.parametrize("quantile", [0.05, 0.5])
@pytest.mark.parametrize("shape", [(120, 120), (60, 240)])
def test_noise_is_measured_by_any_quantile(scene, shape, quantile):
    """Real spectra have the law's quantiles; μ(1) is as Gavish and Donoho have it."""
    measured = SingularValues.of(0.7 * scene.noise(shape, 5).double()).noise(quantile)
    assert measured == pytest.approx(0.7, rel=0.08)
    assert marchenko_pastur(1.0, 0.5) == pytest.approx(
        0.6528, abs=1e-3
    )  # Gavish, Donoho: 1/2.3017²…
