"""Which entries of a parameter belong together.

The rows of a head, the row of an output, by the family's data file.

Names are those in memory, where modules may lie deeper than on disk (adapters, multimodal models),
so a family's path is looked for anywhere in a name.
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
"""(how many heads, rows of each), one after the other along the outputs of a projection."""


class Blocks:
    """The blocks of a model that share one second moment.

    Heads of q, k and v, single outputs elsewhere.

    Raises:
        BadModelError: no data file describes this model, so its heads are not known.
    """

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        """`where` says who asks, for messages."""
        self._family = family_of(config, where)
        self._language = self._family.language(config)
        sizes = Sizes.from_config(self._language, self._family, Path(where))
        self._heads = _latent(self._family, self._language, sizes, where) or _heads(
            self._family, sizes
        )
        self._transposed = [
            block[key]
            for block in self._family.ffn
            if block.get("storage") == "in_out"
            for key in block
            if isinstance(block[key], str)
        ]

    def mean(self, name: str, square: Tensor) -> Tensor:
        """The mean of `square` over each block, spread over its outputs; broadcasts to it.

        A vector is one block: the result is a scalar. Of a matrix (F, D) it is (F, 1); stored [in,
        out], (1, F); of stacked experts, one in front.
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
        """The axis of outputs; rows of an embedding are its tokens, and adapters are stored [out, in] always."""
        plain = is_embedding(name) or ".lora_" in name
        stored = (
            any(has(name, path) for path in self._transposed) or self._family.storage == "in_out"
        )
        return dims - 1 if stored and not plain else dims - 2

    def _runs(self, name: str, outputs: int) -> Runs:
        """The heads of a projection.

        None for other tensors, and for a namesake of another size (a vision tower's).
        """
        for path, runs in self._heads.items():
            if (
                has(name, path)
                and ".lora_A." not in name
                and sum(count * size for count, size in runs) == outputs
            ):
                return runs
        return []


def has(name: str, path: str) -> bool:
    """Whether a parameter belongs to the module at `path`, however deep that lies."""
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
    """Whether a parameter is an embedding or an output head, by the names that any family has for them."""
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
    # However q, k and v are fused, a head's rows lie together.
    return {
        attention[role]: [(count, sizes.head_dim)]
        for role, count in counts.items()
        if role in attention
    }


def _latent(family: Family, config: Mapping[str, Any], sizes: Sizes, where: str) -> dict[str, Runs]:
    """Multi-head latent attention.

    kv_a ends with the one rotary key, kv_b has a key and a value for each head.
    """
    section = family.latent_attention
    if section is None:
        return {}
    own = LatentSizes.from_config(config, where)
    query: Runs = [(sizes.heads, own.nope + own.rope)]
    return {
        section["q"]: query,
        section["q_b"]: query,
        section["kv_a"]: [(own.latent, 1), (1, own.rope)],
        section["kv_b"]: [(1, own.nope), (1, own.value)] * sizes.heads,
    }
