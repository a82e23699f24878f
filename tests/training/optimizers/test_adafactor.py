"""Adafactor: algorithms 4 and 5 of its paper, with an absolute rate."""

from __future__ import annotations

import numpy as np
from optimizer_cases import RATE, OptimizerCase, Run, randoms


def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Algorithm 4 of the paper with algorithm 5's decay and clipping; one v for a vector."""
    rows = columns = one = 0.0
    for t, g in enumerate(gradients, start=1):
        decay, square = 1 - t**-0.8, g * g + 1e-30
        if g.ndim > 1:
            rows = decay * rows + (1 - decay) * square.mean(axis=-1, keepdims=True)
            columns = decay * columns + (1 - decay) * square.mean(axis=-2, keepdims=True)
            step = g / np.sqrt(rows * columns / rows.mean(axis=-2, keepdims=True))
        else:
            one = decay * one + (1 - decay) * square.mean()
            step = g / np.sqrt(one)
    return step / max(1.0, np.sqrt((step * step).mean()))


CASE = OptimizerCase(rule)


def test_adafactor_is_transformers_on_matrices() -> None:
    """Matrices and experts as transformers.optimization.Adafactor has them; vectors differ."""
    from transformers.optimization import Adafactor

    ours, theirs = Run("adafactor", decay=0.0), Run("adafactor", decay=0.0)
    groups = [{"params": list(theirs.parameters.values())}]
    theirs.optimizer = Adafactor(groups, lr=RATE, scale_parameter=False, relative_step=False)
    for number in range(3):
        ours.step(randoms(number))
        theirs.step(randoms(number))
    for name, value in ours.arrays().items():
        assert (float(np.abs(value - theirs.arrays()[name]).max()) <= 1e-6) == (value.ndim > 1), (
            name
        )
