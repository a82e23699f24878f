"""The optimizers: found by name, declared, and doing what their papers say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from mpu_cli.errors import UsageError
from mpu_cli.training import optimizers


def test_names_need_no_torch() -> None:
    """Listing them imports nothing heavy."""
    code = (
        "import sys; from mpu_cli.training import optimizers; print(optimizers.names());"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "adafactor" in done.stdout and "adamw" in done.stdout


@pytest.mark.parametrize("name", optimizers.names())
def test_every_optimizer_is_declared(name: str) -> None:
    """Each file declares one optimizer under its own name, with its source."""
    spec = optimizers.get(name.upper())
    assert spec.name == name
    assert spec.source
    assert isinstance(spec.smooth, bool)


def test_unknown_name() -> None:
    """An unknown name is a usage error that names the nearest."""
    with pytest.raises(UsageError, match="--optimizer adamv") as caught:
        optimizers.get("adamv")
    assert caught.value.hint == "did you mean adamw?"


def steps(name: str, shape: tuple[int, ...], count: int = 3) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """The start, the gradients given and the end of a few steps at learning rate 0.01 with weight decay 0.1."""
    generator = torch.Generator().manual_seed(5)
    parameter = torch.nn.Parameter(torch.randn(shape, generator=generator))
    start = parameter.detach().clone().numpy()
    built = optimizers.get(name).build([{"params": [parameter], "weight_decay": 0.1}], 0.01)
    gradients = [torch.randn(shape, generator=generator) for _ in range(count)]
    for gradient in gradients:
        parameter.grad = gradient.clone()
        built.step()
    return start, [gradient.numpy() for gradient in gradients], parameter.detach().numpy()


def test_adamw_is_the_papers() -> None:
    """Three steps equal algorithm 2 of the AdamW paper in numpy."""
    theta, gradients, end = steps("adamw", (4, 3))
    first, second = np.zeros_like(theta), np.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g * g
        step = first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        theta = theta - 0.01 * (step + 0.1 * theta)
    assert np.abs(theta - end).max() <= 1e-6


@pytest.mark.parametrize("shape", [(4, 3), (6,)])
def test_adafactor_is_the_papers_with_an_absolute_rate(shape: tuple[int, ...]) -> None:
    """Three steps equal algorithm 4 of the Adafactor paper in numpy, the rate not scaled by RMS(θ)."""
    theta, gradients, end = steps("adafactor", shape)
    rows = columns = entries = 0.0
    for t, g in enumerate(gradients, start=1):
        decay, square = 1 - t**-0.8, g * g + 1e-30
        if len(shape) == 2:
            rows = decay * rows + (1 - decay) * square.mean(axis=1)
            columns = decay * columns + (1 - decay) * square.mean(axis=0)
            step = g / np.sqrt(np.outer(rows, columns) / np.mean(rows))
        else:
            entries = decay * entries + (1 - decay) * square
            step = g / np.sqrt(entries)
        step = step / max(1.0, np.sqrt((step * step).mean()))
        theta = theta - 0.01 * 0.1 * theta - 0.01 * step
    assert np.abs(theta - end).max() <= 1e-6
