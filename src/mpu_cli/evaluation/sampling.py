"""How the next token is chosen.

The most probable one, or one drawn by a generator that belongs to the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw instead of taking the most probable token."""

    samples: int = 1
    temperature: float = 1.0
    seed: int = 0


class Greedy:
    """The most probable token."""

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) → (B,)."""
        return logits.argmax(dim=-1)

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on."""


class RandomChoice:
    """A draw from softmax(logits / temperature).

    Where a uniform number falls among the words' summed probabilities.

    Every text has a generator of its own, so that it depends neither on its batch nor on how many
    processes there are (but for a draw that falls, to rounding, on the border of two words).
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """A seed for every row of the batch."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, V) → (B,)."""
        wide = (
            torch.float32 if logits.device.type == "mps" else torch.float64
        )  # there is no other there
        sums = (logits.float() / self._temperature).softmax(dim=-1).to(wide).cumsum(dim=-1)
        draws = [
            torch.rand(1, generator=generator, dtype=torch.float64)
            for generator in self._generators
        ]
        uniform = torch.stack(draws).to(sums)
        return (
            torch.searchsorted(sums, uniform * sums[:, -1:], right=True)
            .clamp(max=logits.shape[-1] - 1)
            .squeeze(1)
        )

    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows of the batch go on."""
        self._generators = [self._generators[row] for row in rows]


def text_seed(seed: int, sample: int, prompt: Sequence[int]) -> int:
    """Of one text; torch takes 64 bits and uses the lower 32."""
    return int.from_bytes(sha256(f"{seed}/{sample}/{list(prompt)}".encode()).digest()[:8])
