"""How the next token is chosen: the most probable one, or a random one from a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of random choice."""

    samples: int = 1
    """Texts for each prompt."""
    temperature: float = 1.0
    seed: int = 0


class Greedy:
    """Choose the most probable token."""

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) → (B,)."""
        return logits.argmax(dim=-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows of the batch only."""


class RandomChoice:
    """Choose a token at random by softmax(logits / temperature).

    The choice is the token at which the cumulative probabilities pass a uniform number. Every text
    has its own generator, so that it depends neither on its batch nor on the number of processes
    (unless the number falls, to rounding, on the border of two tokens).
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """`seeds` has one seed for each row of the batch."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) → (B,)."""
        # mps has no float64
        precision = torch.float32 if logits.device.type == "mps" else torch.float64
        probabilities = (logits.float() / self._temperature).softmax(dim=-1)
        sums = probabilities.to(precision).cumsum(dim=-1)
        uniform = torch.stack(
            [torch.rand(1, generator=own, dtype=torch.float64) for own in self._generators]
        ).to(sums)
        chosen = torch.searchsorted(sums, uniform * sums[:, -1:], right=True)
        return chosen.clamp(max=logits.shape[-1] - 1).squeeze(1)

    def keep(self, rows: Sequence[int]) -> None:
        """Continue with these rows of the batch only."""
        self._generators = [self._generators[row] for row in rows]


def text_seed(seed: int, sample: int, prompt: Sequence[int]) -> int:
    """The seed of one text; torch takes 64 bits and uses the lower 32."""
    return int.from_bytes(sha256(f"{seed}/{sample}/{list(prompt)}".encode()).digest()[:8])
