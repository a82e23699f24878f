"""Blocks of a parameter's entries, by the family's data file: a head's rows, an output's row.

Names are those in memory, where modules may be nested deeper than on disk (adapters, multimodal
models), so a family's path matches anywhere in a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpu_cli.architectures.family import Family, families, family_of
from mpu_cli.architectures.sizes import LatentSizes, Sizes

Runs = list[tuple[int, int]]
"""(number of heads, rows of each), in the order of a projection's outputs."""


class Blocks:
    """The blocks that share one second moment: heads of q, k and v, single outputs elsewhere.

    Raises:
        BadModelError: no data file describes this model, so its heads are unknown.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        """`where` is the flag or file that messages name."""
        self._family = family_of(config, where)
        self._language = self._family.language(config)
        sizes = Sizes.from_config(self._language, self._family, Path(where))
        self._heads = _latent(self._family, self._language, sizes, where) or _heads(
            self._family, sizes
        )
        self._transposed = [
            path
            for block in self._family.ffn
            if block.storage == "in_out"
            for path in block.paths.values()
        ]

    def mean(self, name: str, square: Tensor) -> Tensor:
        """The mean of `square` over each block, repeated for its outputs; broadcasts to `square`.

        Returns:
            A scalar for a vector, which is one block; (F, 1) for a matrix (F, D); (1, F) if it is
            stored [in, out]; with a leading axis for stacked experts.
        """
        if square.dim() < 2:
            return square.mean()
        outputs = self._output_axis(name, square.dim())
        rows = square.mean(-1 if outputs == square.dim() - 2 else -2, keepdim=True)
        runs = self._runs(name, rows.shape[outputs])
        if not runs:
            return rows
        parts = torch.split(rows, [count * size for count, size in runs], outputs)
        shared = []
        for part, run in zip(parts, runs, strict=True):
            heads = torch.unflatten(part, outputs, run).mean(outputs + 1)
            shared.append(heads.repeat_interleave(run[1], outputs))
        return torch.cat(shared, outputs)

    def _output_axis(self, name: str, dims: int) -> int:
        """The axis of outputs; embeddings and adapters are always stored [out, in]."""
        plain = is_embedding(name) or ".lora_" in name
        stored = (
            any(has(name, path) for path in self._transposed) or self._family.storage == "in_out"
        )
        return dims - 1 if stored and not plain else dims - 2

    def _runs(self, name: str, outputs: int) -> Runs:
        """The heads of a projection; [] for other tensors, and for a vision tower's projections."""
        for path, runs in self._heads.items():
            if (
                has(name, path)
                and ".lora_A." not in name
                and sum(count * size for count, size in runs) == outputs
            ):
                return runs
        return []


def has(name: str, path: str) -> bool:
    """Whether a parameter belongs to a module at `path`, at any depth."""
    return f".{path}." in f".{name}."


@cache
def _embeddings() -> frozenset[str]:
    outside = [family.outside for group in families().values() for family in group]
    return frozenset(
        paths[role].rpartition(".")[2]
        for paths in outside
        for role in ("embedding", "positions", "head")
        if role in paths
    )


def is_embedding(name: str) -> bool:
    """Whether a parameter is an embedding or an output head, by the names in all families."""
    return not _embeddings().isdisjoint(name.split("."))


def _heads(family: Family, sizes: Sizes) -> dict[str, Runs]:
    attention = family.attention
    assert attention is not None
    counts = {
        "q": sizes.heads,
        "k": sizes.kv_heads,
        "v": sizes.kv_heads,
        "qkv": sizes.heads + 2 * sizes.kv_heads,
    }
    # A head's rows are consecutive, however q, k and v are fused.
    paths = {role: getattr(attention, role) for role in counts}
    return {
        path: [(counts[role], sizes.head_dim)] for role, path in paths.items() if path is not None
    }


def _latent(family: Family, config: Mapping[str, Any], sizes: Sizes, where: str) -> dict[str, Runs]:
    """Multi-head latent attention: kv_a ends with a rotary key, kv_b has key and value by head."""
    section = family.latent_attention
    if section is None:
        return {}
    latent = LatentSizes.from_config(config, where)
    query: Runs = [(sizes.heads, latent.nope + latent.rope)]
    return {
        section.q: query,
        section.q_b: query,
        section.kv_a: [(latent.latent, 1), (1, latent.rope)],
        section.kv_b: [(1, latent.nope), (1, latent.value)] * sizes.heads,
    }
