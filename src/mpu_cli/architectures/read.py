"""From a checkpoint's config and tensor shapes to its layout, by the family's data file.

Every tensor must be claimed and every claim must fit: a tensor silently left behind would leave the server's hands
unperturbed, and a wrong head size would rotate the wrong rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.architectures.family import Family, family_of
from mpu_cli.architectures.layout import Index, LayerLayout, ModelLayout, Slot, rope_planes
from mpu_cli.errors import BadModelError

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers that a layout needs from config.json."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any], where: Path) -> Sizes:
        """Read and check the sizes; raises BadModelError naming the key."""
        heads = _size(config, "num_attention_heads", where)
        kv_heads = _size(config, "num_key_value_heads", where, default=heads)
        hidden = _size(config, "hidden_size", where)
        head_dim = _size(config, "head_dim", where, default=hidden // heads)
        if heads % kv_heads:
            raise BadModelError(f"{where}: {heads} attention heads do not divide into {kv_heads} key-value heads")
        layers = _size(config, "num_hidden_layers", where)
        return cls(layers, heads, kv_heads, head_dim, _size(config, "intermediate_size", where))


def _size(config: Mapping[str, Any], key: str, where: Path, default: int | None = None) -> int:
    value = config.get(key)
    if value is None:
        value = default
    if type(value) is not int or not 0 < value < 1 << 31:
        raise BadModelError(f"{where}: {key} is {value!r}, expected a positive integer")
    return value


def read_layout(config: Mapping[str, Any], shapes: Shapes, where: Path, family: Family | None = None) -> ModelLayout:
    """Lay out a model. `where` is its directory, for messages; `family` replaces the one found by model_type.

    Raises:
        BadModelError: unknown model_type, a tensor that is missing, unclaimed, or of an unexpected shape.
    """
    family = family or family_of(config, where / "config.json")
    sizes = Sizes.from_config(config, where / "config.json")
    unclaimed = set(shapes)
    outside = {role: name for role, name in family.outside.items() if name in shapes}
    for role in ("embedding", "final_norm"):
        if role not in outside:
            raise BadModelError(f"{where}: tensor {family.outside[role]} is missing")
    if "head" in family.outside and "head" not in outside and not config.get("tie_word_embeddings", False):
        raise BadModelError(
            f"{where}: tensor {family.outside['head']} is missing and config.json does not tie it to the embedding",
            "transformers would fill it with random numbers; add the tensor, or set tie_word_embeddings to true",
        )
    unclaimed -= set(outside.values())
    layers = []
    for index in range(sizes.layers):
        layer = _Layer(family, sizes, shapes, where, index).layout()
        unclaimed -= {*layer.noised, *layer.untouched}
        layers.append(layer)
    if unclaimed:
        raise BadModelError(
            f"{where}: tensor {min(unclaimed)} is not part of a {config.get('model_type')} model of {sizes.layers} layers",
            f"see src/mpu_cli/architectures/families/{family.name}.yaml: a tensor that nothing claims is never published",
        )
    return ModelLayout(family.name, tuple(layers), outside, family.transforms)


class _Layer:
    """Collects one layer's slots and claims while checking shapes."""

    def __init__(self, family: Family, sizes: Sizes, shapes: Shapes, where: Path, index: int) -> None:
        self.family, self.sizes, self.shapes, self.where, self.index = family, sizes, shapes, where, index
        self.prefix = family.layers.format(i=index) + "."
        self.noised: list[str] = []

    def layout(self) -> LayerLayout:
        sizes, attention, ffn = self.sizes, self.family.attention, self.family.ffn
        group, d = sizes.heads // sizes.kv_heads, sizes.head_dim
        query = _grid(sizes.kv_heads, group, d)
        key = _grid(sizes.kv_heads, d)
        hidden_units = _grid(sizes.ffn)
        slots = {
            "q": self.rows(attention["q"], query),
            "k": self.rows(attention["k"], key),
            "v": self.rows(attention["v"], key),
            "o": self.columns(attention["o"], query),
            "gate": self.rows(ffn["gate"], hidden_units),
            "up": self.rows(ffn["up"], hidden_units),
            "down": self.columns(ffn["down"], hidden_units),
        }
        for path in (attention.get("q_norm"), attention.get("k_norm")):
            if path is not None:
                self.claim(path + ".weight", (d,))
        for path in self.family.norms:
            self.claim(path + ".weight", None)
        untouched = tuple(self.prefix + path for path in self.family.untouched if self.prefix + path in self.shapes)
        twice = sorted(set(untouched) & set(self.noised))
        if twice:
            raise ValueError(f"{self.family.name}.yaml: {twice[0]} is both used and untouched")
        return LayerLayout(self.index, slots, rope_planes(attention["rope"], d), tuple(self.noised), untouched)

    def rows(self, path: str, index: Index) -> tuple[Slot, ...]:
        """The output side of a linear map: rows of the weight, and the bias if there is one."""
        slots = [self.slot(path + ".weight", 0, index, dims=2)]
        if self.prefix + path + ".bias" in self.shapes:
            slots.append(self.slot(path + ".bias", 0, index, dims=1))
        return tuple(slots)

    def columns(self, path: str, index: Index) -> tuple[Slot, ...]:
        """The input side of a linear map: columns of the weight; a bias lies on the other side."""
        if self.prefix + path + ".bias" in self.shapes:
            self.claim(path + ".bias", None)
        return (self.slot(path + ".weight", 1, index, dims=2),)

    def slot(self, path: str, axis: int, index: Index, dims: int) -> Slot:
        name = self.claim(path, None)
        shape = self.shapes[name]
        if len(shape) != dims or shape[axis] != index.size:
            raise BadModelError(
                f"{self.where}: tensor {name} has shape {list(shape)}, expected {index.size} along axis {axis}",
                "config.json and the weights belong to different models",
            )
        return Slot(name, axis, index.size, index)

    def claim(self, path: str, shape: tuple[int, ...] | None) -> str:
        name = self.prefix + path
        if name not in self.shapes:
            raise BadModelError(f"{self.where}: tensor {name} is missing", "the checkpoint is incomplete")
        if shape is not None and self.shapes[name] != shape:
            raise BadModelError(f"{self.where}: tensor {name} has shape {list(self.shapes[name])}, expected {list(shape)}")
        self.noised.append(name)
        return name


def _grid(*shape: int) -> Index:
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
