"""Tensors of every kind and their steps, for the tests of the optimizers.

The test file of each optimizer, `optimizers/test_NAME.py`, has its `CASE`; the shared tests find
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cases import case_of
from mpu_cli.training import optimizers

Rule = Callable[[str, list[np.ndarray]], np.ndarray]
FOLDER = Path(__file__).parent / "optimizers"


@dataclass(frozen=True)
class OptimizerCase:
    """What the shared tests must know of one optimizer."""

    rule: Rule
    """(name, gradients so far) → direction of the next step in numpy, without weight decay."""
    rate: float = 1e-3
    """Learning rate at which six steps unlearn the rows of a tiny model."""
    round_rate: float = 1e-3
    """Learning rate at which twenty steps move a tiny model by some per cent."""


@cache
def optimizer_case(name: str) -> OptimizerCase:
    """The case of an optimizer, from its test file."""
    case: OptimizerCase = case_of(FOLDER, name.replace("-", "_"), "add-an-optimizer")
    return case


HEADS, KV_HEADS, SIZE, HIDDEN = 4, 2, 3, 5
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": SIZE,
}
PREFIX = "model.layers.0."
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
TENSORS = {
    f"{PREFIX}self_attn.q_proj.weight": (HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.k_proj.weight": (KV_HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.v_proj.weight": (KV_HEADS * SIZE, HIDDEN),
    f"{PREFIX}self_attn.v_proj.bias": (KV_HEADS * SIZE,),
    f"{PREFIX}self_attn.o_proj.weight": (HIDDEN, HEADS * SIZE),
    f"{PREFIX}mlp.experts.gate_up_proj": (3, 8, HIDDEN),
    f"{PREFIX}mlp.down_proj.weight": (HIDDEN, 4),
    NORM: (HIDDEN,),
    EMBEDDING: (7, HIDDEN),
}
"""All kinds of tensors: heads, transposed pairs, stacked experts, a norm, a bias, embeddings."""
RATE, DECAY = 0.01, 0.1
Arrays = dict[str, np.ndarray]


def randoms(number: int) -> dict[str, torch.Tensor]:
    """A random tensor of every kind."""
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(shape, generator=generator) for name, shape in TENSORS.items()}


class Run:
    """Parameters of every kind and an optimizer on them: matrices decay, vectors do not."""

    def __init__(self, name: str, rate: float = RATE, decay: float = DECAY) -> None:
        """Random parameters, always the same."""
        self.parameters = {key: torch.nn.Parameter(value) for key, value in randoms(0).items()}
        groups: list[dict[str, Any]] = [
            {
                "params": [
                    pair for pair in self.parameters.items() if (pair[1].dim() == 1) == flat
                ],
                "weight_decay": decay * (not flat),
            }
            for flat in (False, True)
        ]
        self.optimizer = optimizers.get(name).build(groups, rate, CONFIG)

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        """One step with these gradients."""
        for name, parameter in self.parameters.items():
            parameter.grad = gradients[name].clone()
        self.optimizer.step()

    def arrays(self) -> Arrays:
        """The parameters in float64."""
        return {name: value.detach().double().numpy() for name, value in self.parameters.items()}


def largest_difference(name: str, rule: Rule, count: int = 3) -> float:
    """The largest difference of the parameters after three steps from those of a rule in numpy."""
    run = Run(name)
    theta, seen = run.arrays(), []
    for number in range(count):
        gradients = randoms(number + 1)
        run.step(gradients)
        seen.append({key: value.double().numpy() for key, value in gradients.items()})
        for key, value in theta.items():
            decay = DECAY if value.ndim > 1 else 0.0
            theta[key] = value - RATE * (
                decay * value + rule(key, [gradient[key] for gradient in seen])
            )
    return max(float(np.abs(theta[key] - value).max()) for key, value in run.arrays().items())


def adam(gradients: list[np.ndarray], mean: Any) -> np.ndarray:
    """Adam's direction after these gradients; `mean` says which squares are averaged."""
    first, second = np.zeros_like(gradients[0]), 0.0
    for gradient in gradients:
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * mean(gradient**2)
    t = len(gradients)
    return first / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
