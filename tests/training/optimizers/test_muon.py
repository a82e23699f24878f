"""Muon: its blog's rule, in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from optimizer_cases import EMBEDDING, RATE, OptimizerCase, Run, adam, randoms

from mpu_cli.training.optimizers.muon import orthogonalised


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    """The same polynomial on the singular values."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u * s @ v


def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Matrices and experts get 0.2 √max · orthogonalised Nesterov momentum, the rest Adam."""
    if gradients[0].ndim == 1 or name == EMBEDDING:
        return adam(gradients, lambda square: square.mean())
    momentum = np.zeros_like(gradients[0])
    for gradient in gradients:
        momentum = 0.95 * momentum + 0.05 * gradient
    ahead = 0.95 * momentum + 0.05 * gradients[-1]
    slices = ahead if ahead.ndim == 3 else ahead[None]
    scale = 0.2 * np.sqrt(max(ahead.shape[-2:]))
    return scale * np.stack([newton_schulz(one) for one in slices]).reshape(ahead.shape)


CASE = OptimizerCase(rule, rate=3e-3, round_rate=2e-3)


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (16, 16), (3, 12, 6)])
def test_newton_schulz_orthogonalises(shape: tuple[int, ...]) -> None:
    """Singular values are near 1, vectors stay, and orthogonal maps commute with it."""
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(shape, generator=generator)
    found = orthogonalised(matrix)
    assert found.dtype == torch.float32
    values = torch.linalg.svdvals(found)
    assert (
        float(values.min()) > 0.3
        and float(values.max()) < 1.3
        and 0.65 < float(values.median()) < 1.2
    )
    left, right = (
        torch.linalg.qr(torch.randn(size, size, generator=generator))[0] for size in shape[-2:]
    )
    torch.testing.assert_close(
        orthogonalised(left @ matrix @ right), left @ found @ right, atol=3e-6, rtol=0
    )
    torch.testing.assert_close(orthogonalised(1e-6 * matrix), found, atol=3e-6, rtol=0)
    assert not orthogonalised(torch.zeros(shape)).any()


def test_muon_moves_matrices_as_much_as_adamw() -> None:
    """The RMS of a matrix's step is 0.2 of the rate, whatever the shape and gradient."""
    run = Run("muon", decay=0.0)
    before = run.arrays()
    run.step({name: 1e-3 * gradient for name, gradient in randoms(1).items()})
    for name, value in run.arrays().items():
        if value.ndim > 1 and name != EMBEDDING:
            assert np.sqrt(((value - before[name]) ** 2).mean()) == pytest.approx(
                0.2 * RATE, rel=0.25
            ), name


def test_a_closure_is_called_once_with_gradients_on() -> None:
    """`step(closure)` as torch's optimizers have it."""
    run = Run("muon")

    def closure() -> torch.Tensor:
        loss = sum((value.square().sum() for value in run.parameters.values()), torch.zeros(()))
        loss.backward()
        return loss

    before = run.arrays()
    assert run.optimizer.step(closure).item() > 0
    assert all((value != before[key]).any() for key, value in run.arrays().items())
