"""Tensors on disk by a family's paths: which exist, of what shape, and which belong to a layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mpu_cli.architectures.family import Family
from mpu_cli.architectures.layout import Index, Slot
from mpu_cli.errors import BadModelError

Shapes = Mapping[str, tuple[int, ...]]


class TensorLookup:
    """Tensors below one prefix: a decoder layer, or with an empty prefix the whole model."""

    def __init__(self, family: Family, shapes: Shapes, where: Path, prefix: str) -> None:
        self.family, self.shapes, self.where, self.prefix = family, shapes, where, prefix
        self.noised: dict[str, None] = {}
        """The tensors that `require` has returned: those of the layer that get noise."""

    def find(self, path: str) -> tuple[str, ...]:
        """The tensors on disk for a path: its weight (or the path itself), then its bias.

        Empty if absent.
        """
        name = self.prefix + path
        return tuple(
            full
            for full in (name + ".weight", name, name + ".bias", name + "_bias")
            if full in self.shapes
        )

    def require(self, path: str, shape: tuple[int, ...] | None = None) -> tuple[str, ...]:
        """The tensors of a path, which then belong to this layer.

        Raises:
            BadModelError: they are absent, or the first has another shape.
        """
        names = self.find(path)
        if not names:
            raise self.missing(path)
        if shape is not None and self.shapes[names[0]] != shape:
            raise BadModelError(
                f"{self.where}: tensor {names[0]} has shape {list(self.shapes[names[0]])}, expected"
                f" {list(shape)}"
            )
        self.noised.update(dict.fromkeys(names))
        return names

    def missing(self, path: str) -> BadModelError:
        """The error for a path that is not on disk, ready to be raised."""
        name = f"{self.prefix}{path}.weight"
        bare = name.partition(".")[2]
        if bare in self.shapes:
            hint = (
                f"the file stores it as {bare}: load the model in transformers and call"
                " save_pretrained, which writes full names"
            )
        else:
            hint = "the checkpoint is incomplete"
        return BadModelError(f"{self.where}: tensor {name} is missing", hint)

    def rows(
        self, path: str, index: Index, size: int | None = None, storage: str | None = None
    ) -> tuple[Slot, ...]:
        """The output side of a linear map: rows of the weight, and of the bias if there is one.

        Args:
            path: of the map.
            index: positions along the outputs.
            size: how many outputs the map has; by default as many as `index` has positions.
            storage: `out_in` or `in_out`, if it differs from the family's.
        """
        names = self.require(path)
        axis = self._axis(names[0], storage, outputs=True)
        slots = [self._slot(names[0], axis, index, size or index.size)]
        for name in names[1:]:
            slots.append(self._slot(name, len(self.shapes[name]) - 1, index, size or index.size))
        return tuple(slots)

    def columns(self, path: str, index: Index, storage: str | None = None) -> tuple[Slot, ...]:
        """The input side of a linear map: columns of the weight.

        The bias belongs to the outputs, so it has no slot here.
        """
        name = self.require(path)[0]
        return (self._slot(name, self._axis(name, storage, outputs=False), index, index.size),)

    def input_size(self, path: str, storage: str | None = None) -> int:
        """How many inputs a linear map has."""
        name = self.require(path)[0]
        return self.shapes[name][self._axis(name, storage, outputs=False)]

    def slot(self, path: str, axis: int, index: Index) -> tuple[Slot, ...]:
        """The same axis and positions of every tensor of a path."""
        return tuple(self._slot(name, axis, index, index.size) for name in self.require(path))

    def _axis(self, name: str, storage: str | None, *, outputs: bool) -> int:
        """The axis of a weight along which its outputs or inputs lie, behind that of experts."""
        dims = len(self.shapes[name])
        if not 2 <= dims <= 3:
            raise BadModelError(
                f"{self.where}: tensor {name} has shape {list(self.shapes[name])}, expected a"
                " matrix"
            )
        transposed = (storage or self.family.storage) == "in_out"
        return dims - 1 if outputs == transposed else dims - 2

    def _slot(self, name: str, axis: int, index: Index, size: int) -> Slot:
        shape = self.shapes[name]
        if not axis < len(shape) or shape[axis] != size:
            raise BadModelError(
                f"{self.where}: tensor {name} has shape {list(shape)}, expected {size} along axis"
                f" {axis}",
                "config.json and the weights belong to different models",
            )
        return Slot(name, axis, size, index)
