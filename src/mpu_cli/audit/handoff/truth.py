"""The score of an estimate: the only place where the secret and the model itself are used.

The error is ‖estimate − θ‖ over the noised tensors of the sampled layers, in the unit of the
record's noise: ‖θ − base‖ as σ says it, or ‖θ‖. What may differ between them without changing any
output is no protection, and is taken out: θ goes through the first copy's T, drawn from the secret,
and back by the attacker's estimate of it; and a rotation of q, k, v and o by planes that is left
between the estimate and θ is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt
from pathlib import Path

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.audit.handoff.aligned import AlignedLayer, Aligner
from mpu_cli.audit.handoff.alignment import applied
from mpu_cli.audit.handoff.alignment.inside import leftover_angles
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.attacks._attack import Estimate
from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, read_tensor
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.transforms import load
from mpu_cli.server.transforms.draw import draw_layer

SHARES = (1.0, 0.98, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01)
"""The shares of (estimate − base) that an attacker with a base keeps of a noisy estimate."""


@dataclass(slots=True)
class Score:
    """Sums over the layers of one estimate."""

    error: float = 0.0
    """‖estimate − θ‖²."""
    length: float = 0.0
    """‖estimate − base‖²."""
    product: float = 0.0
    """⟨estimate − base, θ − base⟩."""
    task: float = 0.0
    """‖θ − base‖²."""
    exact: int = 0
    entries: int = 0
    unit: float = 0.0
    """Square of the unit of the error."""
    shrinks: bool = False

    def best(self) -> tuple[float, float]:
        """The smallest relative error, and the share of (estimate − base) that leaves it."""
        tried = [(self.error, 1.0)]
        if self.shrinks:
            tried += [
                (share**2 * self.length - 2 * share * self.product + self.task, share)
                for share in SHARES[1:]
            ]
        error, share = min(tried)
        return sqrt(max(error, 0.0) / self.unit) if self.unit else 0.0, share

    @property
    def cosine(self) -> float:
        """Of (estimate − base) and (θ − base)."""
        size = sqrt(self.length * self.task)
        return self.product / size if size else 0.0

    @property
    def exact_share(self) -> float:
        """Share of the entries that equal θ's after rounding to θ's own dtype."""
        return self.exact / max(1, self.entries)


class Truth:
    """θ of every round given, in the frame in which the attacks estimate it."""

    def __init__(
        self,
        aligner: Aligner,
        lineage: Lineage,
        records: Sequence[HandoffRecord],
        models: Mapping[str, Checkpoint],
        where: Path,
    ) -> None:
        """Check that T can be drawn again.

        Args:
            aligner: of what the attacker has.
            lineage: of the secret.
            records: of the holding's handoffs, in their order.
            models: θ by digest, for every record.
            where: the secret, for messages.

        Raises:
            GateError: the layout has changed since a handoff was made.
        """
        self._aligner, self._holding = aligner, aligner.holding
        self._lineage, self._records = lineage, records
        self._models = models
        layout = fingerprint(aligner.holding.layout)
        for record in records:
            record.require_layout(layout, where)
        self._turns = any(not load(name).EXACT for record in records for name in record.transforms)
        self._frame = lru_cache(maxsize=2)(self._read)

    @property
    def offset_scale(self) -> Mapping[str, float]:
        """The size of the lineage's offset by group, weight units."""
        return self._lineage.secret.offset.scale

    def newest(self, handoffs: Sequence[int]) -> str:
        """The digest of the newest model that these handoffs were made from."""
        digests = {self._records[number].model for number in handoffs}
        return max(digests, key=self._age)

    def rounds(self) -> tuple[int, ...]:
        """The number of each handoff's model among those given, the oldest 0."""
        digests = [record.model for record in self._records]
        in_order = sorted(set(digests), key=self._age)
        return tuple(in_order.index(digest) for digest in digests)

    def _age(self, digest: str) -> tuple[int, str]:
        return self._lineage.models[digest].sequence, digest

    def tensors(self, index: int, digest: str) -> Tensors:
        """θ's layer, float32, in the frame of the aligned copies; the layer was aligned before."""
        return self._frame(index, digest)

    def _read(self, index: int, digest: str) -> Tensors:
        layer = self._holding.layout.layers[index]
        model, record = self._models[digest], self._records[0]
        theta = {name: read_tensor(model.tensors[name]).float() for name in layer.noised}
        position = {copy.name: copy.position for copy in record.copies}[
            self._holding.copies[0].name
        ]
        master = self._lineage.secret.master
        step = draw_layer(record.transforms, layer, master, record.draw, position)
        return self._aligner.first_copy(index).undo(layer, applied(step, layer, theta))

    def unit(self, index: int, handoffs: Sequence[int]) -> float:
        """Square of the error's unit for one layer: N · RMS², as the noise was measured by."""
        record = self._records[handoffs[0]]
        layer = self._holding.layout.layers[index]
        group = layer.group
        shapes = self._holding.copies[0].checkpoint.tensors
        count = sum(shapes[name].elements for name in layer.noised)
        offset = self._lineage.secret.offset
        if record.kappa and record.sigma.get(group):
            return count * (record.sigma[group] / record.kappa) ** 2
        if offset.ratio and offset.scale.get(group):
            return count * (offset.scale[group] / offset.ratio) ** 2
        theta = self.tensors(index, self.newest(handoffs))
        base = self._holding.layer_of_base(index) if record.relative_to == "task-vector" else None
        return squared_distance(theta, base)

    def add(
        self, score: Score, aligned: AlignedLayer, estimate: Estimate, handoffs: Sequence[int]
    ) -> None:
        """Add one layer of an estimate to its score."""
        digest, index, base = self.newest(handoffs), aligned.index, aligned.base
        theta = self.tensors(index, digest)
        layer = self._holding.layout.layers[index]
        tensors = self._without_leftover(layer, theta, estimate.tensors)
        stored = self._models[digest].tensors
        score.shrinks = estimate.noisy and base is not None
        score.unit += self.unit(index, handoffs)
        for name, true in theta.items():
            guess, right = tensors[name].double(), true.double()
            score.error += float((guess - right).square().sum())
            dtype = TORCH_DTYPES[stored[name].dtype]
            score.exact += int((guess.float().to(dtype) == true.to(dtype)).sum())
            score.entries += true.numel()
            if base is not None:
                before = base[name].double()
                moved, task = guess - before, right - before
                score.length += float(moved.square().sum())
                score.product += float((moved * task).sum())
                score.task += float(task.square().sum())

    def add_update(
        self, score: Score, aligned: AlignedLayer, estimate: Estimate, handoffs: Sequence[int]
    ) -> None:
        """Add one layer of a guess of the update between the oldest and the newest of handoffs.

        The unit is the update itself; where copies were rotated, what it shares with a rotation
        that changes no output is taken out of it, because no attacker can know that.
        """
        newest = self.newest(handoffs)
        oldest = min((self._records[number].model for number in handoffs), key=self._age)
        before, after = self.tensors(aligned.index, oldest), self.tensors(aligned.index, newest)
        after = self._without_leftover(self._layer(aligned.index), before, after)
        score.shrinks = estimate.noisy
        for name, tensor in after.items():
            update = tensor.double() - before[name].double()
            guess = estimate.tensors[name].double()
            score.error += float((guess - update).square().sum())
            score.length += float(guess.square().sum())
            score.product += float((guess * update).sum())
            score.task += float(update.square().sum())
        score.unit = score.task

    def _layer(self, index: int) -> LayerLayout:
        return self._holding.layout.layers[index]

    def _without_leftover(self, layer: LayerLayout, theta: Tensors, estimate: Tensors) -> Tensors:
        if not self._turns:
            return estimate
        step = leftover_angles(layer, theta, estimate)
        return {name: step.invert(name, tensor) for name, tensor in estimate.items()}


def squared_distance(first: Tensors, second: Tensors | None) -> float:
    """‖first − second‖², or ‖first‖² without a second."""
    total = 0.0
    for name, tensor in first.items():
        other = tensor.double() if second is None else tensor.double() - second[name].double()
        total += float(other.square().sum())
    return total
