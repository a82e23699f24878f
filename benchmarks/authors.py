"""The published algorithm in memory: one round of MPU as its authors describe it, for comparison.

No command of its own.

Written from the paper (arXiv 2602.23798) and from what was measured of the authors' program, pass
by pass: a deep copy of the state; per decoder layer σ = κ·RMS(θ − base); m whole sets of zeros that
hold the noise; for every tensor m draws of torch.randn, their mean taken away, scaled by α; per
copy another deep copy with the noise added, one rotation for every RoPE plane and KV head on q, k,
v, o (all planes of a head at once), the FFN permutation, and a copy of the model to load it into;
after the client the difference, the inverse rotation and permutation, and the harmonic sum; L2
norms of θ and of the update. Nothing of it touches a disk. Left out in the authors' favour:
printing, and the second name of a tied head, for which their program subtracts, weighs and adds the
embedding twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from hashlib import sha256
from math import pi, sqrt
from typing import Any

import torch

State = dict[str, torch.Tensor]
Client = Callable[[int, State], None]
"""Given a copy's number and the copy, changes the copy in place."""


class AuthorsRound:
    """One round on a model held in memory. `theta` (the live model) is what the round ends with."""

    def __init__(
        self,
        theta: State,
        base: State,
        config: Mapping[str, Any],
        copies: int,
        kappa: float = 0.1,
        seed: int = 101001,
    ) -> None:
        self.theta, self.base, self.copies, self.kappa, self.seed = theta, base, copies, kappa, seed
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.layers = range(config["num_hidden_layers"])
        self.head_size = config["hidden_size"] // self.heads
        self.alphas = [1 + k / (copies - 1) for k in range(copies)]
        self.norms: dict[str, float] = {}

    def run(self, client: Client) -> None:
        """Publish every copy, let the client change it, aggregate, and load the result."""
        before = copy.deepcopy(self.theta)
        self.norms["theta"] = _norm(before)
        noises = self.noise(before, self.sigmas(before))
        total: State = {}
        for k in range(self.copies):
            published = self.publish(before, noises[k], k)
            noises[k] = {}
            model = copy.deepcopy(self.theta)
            for name, tensor in published.items():
                model[name].copy_(tensor)
            client(k, model)
            change = {name: model[name] - tensor for name, tensor in published.items()}
            self.transform(change, k, inverse=True)
            weight = 1.0 / self.alphas[k]
            for name, tensor in change.items():
                if name in total:
                    total[name].add_(tensor, alpha=weight)
                else:
                    total[name] = tensor * weight
        share = sum(1.0 / alpha for alpha in self.alphas)
        update = {name: tensor / share for name, tensor in total.items()}
        self.norms["update"] = _norm(update)
        for name, tensor in update.items():
            before[name] = before[name] + tensor
            self.theta[name].copy_(before[name])

    def sigmas(self, state: State) -> list[float]:
        """σ by layer."""
        found = []
        for layer in self.layers:
            squares, count = 0.0, 0
            for name in _of_layer(state, layer):
                difference = state[name] - self.base[name]
                squares += float((difference * difference).sum())
                count += difference.numel()
            found.append(self.kappa * sqrt(squares / count))
        return found

    def noise(self, state: State, sigmas: list[float]) -> list[State]:
        """α_k ε_k by copy and tensor, Σ ε_k = 0."""
        noises = [
            {name: torch.zeros_like(tensor) for name, tensor in state.items()}
            for _ in range(self.copies)
        ]
        scale = sqrt(self.copies / (self.copies - 1))
        for layer in self.layers:
            for name in _of_layer(state, layer):
                draws = [
                    torch.randn(state[name].shape, generator=self._generator("noise", name, k))
                    * sigmas[layer]
                    for k in range(self.copies)
                ]
                stacked = torch.stack(draws)  # (m, …)
                epsilon = (stacked - stacked.mean(0)) * scale
                for k, alpha in enumerate(self.alphas):
                    noises[k][name].add_(epsilon[k], alpha=alpha)
        return noises

    def publish(self, state: State, noise: State, k: int) -> State:
        """T_k(θ + α_k ε_k)."""
        published = copy.deepcopy(state)
        for name, tensor in published.items():
            tensor.add_(noise[name])
        self.transform(published, k)
        return published

    def transform(self, state: State, k: int, *, inverse: bool = False) -> None:
        """T_k or its inverse, in place of the tensors that it moves."""
        half = self.head_size // 2
        of_query = (
            torch.arange(self.heads) * self.kv_heads // self.heads
        )  # the KV head of each query head
        for layer in self.layers:
            prefix = f"model.layers.{layer}."
            angles = torch.rand(self.kv_heads, half, generator=self._generator("T", layer, k)) * (
                2 * pi
            )  # (KV, d/2)
            angles = -angles if inverse else angles
            for name, rows in (("q", angles[of_query]), ("k", angles), ("v", angles)):
                key = f"{prefix}self_attn.{name}_proj.weight"
                state[key] = _rotated(
                    state[key].view(-1, self.head_size, state[key].shape[1]), rows.unsqueeze(-1), 1
                ).view_as(state[key])
            key = f"{prefix}self_attn.o_proj.weight"
            columns = state[key].view(-1, self.heads, self.head_size)  # (D, H, d)
            state[key] = _rotated(columns, angles[of_query].unsqueeze(0), 2).view_as(state[key])
            width = state[f"{prefix}mlp.down_proj.weight"].shape[1]
            order = torch.randperm(width, generator=self._generator("FFN", layer, k))
            order = order.argsort() if inverse else order
            for name, axis in (("gate", 0), ("up", 0), ("down", 1)):
                key = f"{prefix}mlp.{name}_proj.weight"
                state[key] = state[key].index_select(axis, order)

    def _generator(self, purpose: str, *context: object) -> torch.Generator:
        digest = sha256(repr((self.seed, purpose, *context)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _rotated(heads: torch.Tensor, angles: torch.Tensor, axis: int) -> torch.Tensor:
    """Turn the planes (i, i + d/2) of the head axis by their angles (broadcast over the others)."""
    first, second = heads.chunk(2, axis)
    cosine, sine = angles.cos(), angles.sin()
    return torch.cat([cosine * first + sine * second, cosine * second - sine * first], axis)


def _of_layer(state: State, layer: int) -> list[str]:
    return [name for name in state if name.startswith(f"model.layers.{layer}.")]


def _norm(state: State) -> float:
    return sum(float(tensor.float().square().sum()) for tensor in state.values()) ** 0.5
