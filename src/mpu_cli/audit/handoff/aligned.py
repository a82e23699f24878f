"""All that an attack sees of one layer: the copies in the anchor's frame, and the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.audit.handoff.alignment import FAILED_BELOW, LayerAlignment, align
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.directions import Directions
from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.audit.handoff.own_updates import layer_of_changes
from mpu_cli.bundle.payload import Changes
from mpu_cli.server.transforms.reparameterization import Reparameterization


@dataclass(frozen=True, slots=True)
class AlignedLayer:
    """One layer of some copies, in the frame of the base, or of the first copy without a base."""

    index: int
    copies: tuple[Tensors, ...]
    """The noised tensors of each copy by name, float32."""
    base: Tensors | None
    gram: np.ndarray
    """Products of (copy − base) of each two copies, or of the copies themselves without a base,
    (copies, copies), float64."""
    directions: Mapping[str, Directions] = field(default_factory=dict)
    """Of the base's activations, by matrix; empty where the base was not run."""
    changes: tuple[Tensors | None, ...] = ()
    """For each copy, by how much the client's own update changed it; None if it is not known."""

    @property
    def scale(self) -> float:
        """What products are multiplied by so that all layers count alike."""
        return 1 / max(float(np.trace(self.gram)), 1e-300)

    def of(self, numbers: Sequence[int]) -> AlignedLayer:
        """The same layer of some of the copies."""
        chosen = list(numbers)
        return AlignedLayer(
            self.index,
            tuple(self.copies[number] for number in chosen),
            self.base,
            self.gram[np.ix_(chosen, chosen)],
            self.directions,
            tuple(self.changes[number] for number in chosen) if self.changes else (),
        )


class Aligner:
    """Reads and aligns layers; keeps the estimated transforms, which are small, for later passes.

    The first copy is aligned with the base. The others are aligned with the first copy, to which
    they are nearer as long as there is less noise than task vector, or else with the base. So all
    copies are in one frame, also where the base leaves a choice: hidden units that the fine-tuning
    has moved far. Without a base the first copy is the anchor. The frame changes no output.
    """

    def __init__(
        self,
        holding: Holding,
        directions: Mapping[int, Mapping[str, Directions]] | None = None,
        changes: Mapping[int, Changes] | None = None,
    ) -> None:
        """What an attacker has.

        Args:
            holding: the copies, and the base.
            directions: of the base's activations, by layer and matrix.
            changes: the client's own updates, by the number of the copy.
        """
        self.holding, self._directions = holding, directions or {}
        self._changes = changes or {}
        self._known: dict[tuple[int, int], LayerAlignment] = {}

    def layer(self, index: int) -> AlignedLayer:
        """One layer of all copies."""
        layer = self.holding.layout.layers[index]
        base = self.holding.layer_of_base(index)
        copies: list[Tensors] = []
        for number in range(len(self.holding.copies)):
            copy = self.holding.layer_of_copy(number, index)
            if (number, index) not in self._known:
                anchors = [it for it in (copies[0] if copies else None, base) if it is not None]
                self._known[number, index] = _nearest(layer, anchors, copy)
            copies.append(self._known[number, index].undo(layer, copy))
        directions = self._directions.get(index, {})
        changes = tuple(self._change(number, index) for number in range(len(copies)))
        gram = products(copies, base)
        return AlignedLayer(index, tuple(copies), base, gram, directions, changes)

    def _change(self, number: int, index: int) -> Tensors | None:
        if number not in self._changes:
            return None
        layer = self.holding.layout.layers[index]
        return self._known[number, index].undo(
            layer, layer_of_changes(self.holding, self._changes[number], index)
        )

    def first_copy(self, index: int) -> LayerAlignment:
        """How the first copy was aligned, in a layer that was read."""
        return self._known[0, index]

    def clear_share(self, number: int) -> float:
        """The share of a copy's hidden units, in the layers read, that were matched clearly."""
        found = [alignment for (copy, _), alignment in self._known.items() if copy == number]
        return sum(it.clear for it in found) / max(1, sum(it.units for it in found))

    def cosine(self, number: int) -> float:
        """Mean cosine of a copy and the anchor after alignment, over the layers read."""
        found = [it.cosine for (copy, _), it in self._known.items() if copy == number]
        return sum(found) / max(1, len(found))

    def failed(self) -> list[int]:
        """The copies whose alignment failed."""
        return [
            number
            for number in range(len(self.holding.copies))
            if self.clear_share(number) < FAILED_BELOW
        ]


def _nearest(layer: LayerLayout, anchors: Sequence[Tensors], copy: Tensors) -> LayerAlignment:
    """The alignment with the anchor that the copy is nearest to; the identity without any."""
    found = [align(layer, anchor, copy) for anchor in anchors]
    still = LayerAlignment(Reparameterization({}), 1, 1, 1.0)
    return max(found, key=lambda alignment: alignment.cosine, default=still)


def products(
    copies: Sequence[Tensors], base: Tensors | None, changes: Sequence[Tensors] = ()
) -> np.ndarray:
    """Products of each two of the copies (minus the base) and, after them, of changes; float64."""
    size = len(copies) + len(changes)
    gram = np.zeros((size, size))
    for name in copies[0]:
        table = torch.stack([it[name].double().ravel() for it in (*copies, *changes)])
        if base is not None:
            table[: len(copies)] -= base[name].double().ravel()
        gram += (table @ table.T).numpy()
    return gram
