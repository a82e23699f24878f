"""An offset whose covariance follows the task vector and the sensitivity of training.

Shared by structured_offset.py and offset_attacks.py, not a benchmark itself.

For one matrix W (O, I), y = W x: A = E[xxᵀ] and G = E[δδᵀ], δ the loss's gradient at y, from a
surrogate unlearning run. In their eigenbases an entry of the task vector has the energy e (averaged
over blocks) and a disturbance of it has the cost w per unit of variance. An attacker who knows e
and the noise's variance S is left with Σ e S / (e + S). The S that leaves a given share at the
least Σ w S is e (1/√(μ w) − 1)₊.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-3
"""Cost of a direction that the surrogate run never used, relative to the mean one."""
FIRST = 8
"""Width of the first block; each next one is half as wide again as all before it are long."""


class Moments:
    """Second moments of each linear layer's inputs and output gradients, collected by hooks.

    Tokens that the loss does not depend on are left out. Layers outside `.layers.` are not read.
    """

    def __init__(self, model: Any) -> None:
        """Install the hooks; `close` removes them."""
        self.inputs: dict[str, Tensor] = {}
        """(I, I) sums of xxᵀ by the weight's name."""
        self.gradients: dict[str, Tensor] = {}
        """(O, O) sums of δδᵀ."""
        self._handles = [
            module.register_forward_hook(self._hook(f"{name}.weight"))
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and ".layers." in name
        ]

    def _hook(self, name: str) -> Callable[..., None]:
        def forward(module: Any, given: tuple[Tensor, ...], output: Tensor) -> None:
            if output.requires_grad:
                x = given[0].detach()
                output.register_hook(lambda gradient: self._add(name, x, gradient))

        return forward

    def _add(self, name: str, x: Tensor, gradient: Tensor) -> None:
        flat = gradient.reshape(-1, gradient.shape[-1])
        used = flat.abs().sum(-1) > 0
        flat, x = flat[used], x.reshape(-1, x.shape[-1])[used]
        for sums, part in ((self.inputs, x), (self.gradients, flat)):
            sums[name] = sums[name] + part.T @ part if name in sums else part.T @ part

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


@dataclass(frozen=True)
class Shape:
    """One matrix's task vector in the eigenbasis, with its energy and its costs."""

    name: str
    rows: Tensor
    """U_G (O, O): the columns are eigenvectors of G, largest first."""
    columns: Tensor
    """U_A (I, I)."""
    gamma: Tensor
    """Eigenvalues of G over their mean, (O,)."""
    lam: Tensor
    """Eigenvalues of A over their mean, (I,)."""
    task: Tensor
    """U_Gᵀ (θ − base) U_A, (O, I)."""
    layer_rms: float
    """Root mean square of the task vector over all matrices of this layer."""

    @cached_property
    def energy(self) -> Tensor:
        """Block means of the task vector's squares, (O, I)."""
        return block_mean(self.task.square())

    @property
    def cost(self) -> Tensor:
        """½ (λ/λ̄ + γ/γ̄) + FLOOR, (O, I)."""
        return (self.gamma[:, None] + self.lam[None, :]) / 2 + FLOOR

    def into_basis(self, matrix: Tensor) -> Tensor:
        """(O, I) in the model's coordinates → in the eigenbasis."""
        return self.rows.T @ matrix @ self.columns

    def from_basis(self, matrix: Tensor) -> Tensor:
        """The inverse of `into_basis`."""
        return self.rows @ matrix @ self.columns.T


def shape_of(name: str, task: Tensor, moments: Moments, layer_rms: float) -> Shape:
    """The eigenbasis of one matrix from the collected moments; `task` (O, I) is θ − base."""
    gamma, rows = _descending(moments.gradients[name])
    lam, columns = _descending(moments.inputs[name])
    return Shape(
        name,
        rows,
        columns,
        gamma / gamma.mean(),
        lam / lam.mean(),
        rows.T @ task @ columns,
        layer_rms,
    )


def _descending(matrix: Tensor) -> tuple[Tensor, Tensor]:
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0).clamp(min=0), vectors.flip(1).contiguous()


def block_of(length: int) -> Tensor:
    """The number of the block of each of `length` positions, (length,)."""
    ends = [FIRST]
    while ends[-1] < length:
        ends.append(ends[-1] + max(FIRST, ends[-1] // 2))
    return torch.bucketize(torch.arange(length), torch.tensor(ends), right=True)


def block_mean(values: Tensor) -> Tensor:
    """Each entry of (O, I) replaced by the mean of its block."""
    rows, columns = block_of(values.shape[0]), block_of(values.shape[1])
    places = rows[:, None] * (int(columns[-1]) + 1) + columns[None, :]
    flat = places.reshape(-1)
    sums = torch.zeros(int(flat.max()) + 1, dtype=torch.float64)
    sums.index_add_(0, flat, values.reshape(-1).double())
    return (sums / torch.bincount(flat))[places].to(values.dtype)


def white(shape: Shape, level: float) -> Tensor:
    """Mpu's own offset with c = level: the same variance in all matrices of a layer."""
    return torch.full_like(shape.task, (level * shape.layer_rms) ** 2)


def proportional(shape: Shape, level: float) -> Tensor:
    """Variance proportional to the energy; costs are not looked at."""
    return level**2 * shape.energy


def structured(shape: Shape, level: float) -> Tensor:
    """S = e (level / √w − 1)₊, level = 1/√μ."""
    return shape.energy * (level / shape.cost.sqrt() - 1).clamp(min=0)


KINDS: dict[str, Callable[[Shape, float], Tensor]] = {
    "white": white,
    "proportional": proportional,
    "structured": structured,
}
"""Variance of the offset's entries in the basis, (O, I), by kind; it grows with the level."""


def predicted(kind: str, shapes: Sequence[Shape], level: float) -> float:
    """What Wiener shrinkage with known e and S leaves, relative to the task vector."""
    lost = total = 0.0
    for shape in shapes:
        energy, noise = shape.energy, KINDS[kind](shape, level)
        lost += float((energy * noise / (energy + noise).clamp(min=1e-30)).sum())
        total += float(energy.sum())
    return (lost / total) ** 0.5


def level_for(kind: str, shapes: Sequence[Shape], leak: float) -> float:
    """The level at which `predicted` is `leak`, to four digits, by bisection of its logarithm."""
    low, high = -16.0, 24.0  # powers of two
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if predicted(kind, shapes, 2**middle) < leak else (low, middle)
    return float(2**high)


def drawn(shape: Shape, noise: Tensor, seed: int) -> Tensor:
    """Z ∘ √S in the basis; the same Z for the same seed and matrix, whatever S is."""
    generator = torch.Generator().manual_seed(_number(shape.name) + seed)
    return torch.randn(noise.shape, generator=generator) * noise.sqrt()


def _number(name: str) -> int:
    return int.from_bytes(name.encode()[-40:], "little") % (2**31)
