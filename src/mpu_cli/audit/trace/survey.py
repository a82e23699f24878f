"""Read found models group by group (a decoder layer each), and collect the evidence.

A *frame* is a way to line a found model up with θ: T_k of a published copy is undone, or nothing is
(whoever found it may have undone T with the public base, or the copies had none).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch

from mpu_cli.architectures.layout import Index, LayerLayout
from mpu_cli.audit.trace.centre import Centre
from mpu_cli.audit.trace.evidence import NoiseEvidence
from mpu_cli.audit.trace.leaked_model import LeakedModel, OpenLayout, flat, without
from mpu_cli.audit.trace.suspects import Array, SuspectDraw
from mpu_cli.server.secrets.randomness import IntegerStream, derive_key, normals
from mpu_cli.server.transforms.blockwise import BLOCK, BlockwiseTransform, matrix, row_blocks
from mpu_cli.server.transforms.draw import draw_layer
from mpu_cli.server.transforms.reparameterization import Reparameterization

_LEAST_RESIDUAL = 1e-14
"""Smallest mean square of a residual, relative to the weights': float32 resolves no less."""
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_GOLDEN = (sqrt(5) - 1) / 2
_UNMOVED = Reparameterization({})


@dataclass(frozen=True, slots=True)
class Frame:
    """T_k of the copy at `position` of draw number `draw`; None where nothing is undone."""

    draw: int | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that share one σ: those of a decoder layer, or of a role outside the layers."""

    name: str
    tensors: tuple[str, ...]
    layer: LayerLayout | None


def groups(known: OpenLayout, scope: str, count: int | None) -> list[Group]:
    """At most `count` groups, spread over the model; any first few of them are spread, too."""
    layers = {layer.group: layer for layer in known.layout.layers}
    every = [
        Group(name, names, layers.get(name))
        for name, names in known.layout.groups(scope).items()
        if names
    ]
    spread = sorted(range(len(every)), key=lambda index: (index * _GOLDEN) % 1)
    return [every[index] for index in spread[:count]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one tensor of θ, seen as a matrix."""

    group: Group
    tensor: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def entries(self) -> int:
        """Number of entries."""
        return (self.stop - self.start) * matrix(self.shape)[1]


class Survey:
    """The evidence on found models, in the frames and for the draws that it was asked for."""

    def __init__(
        self,
        found: Sequence[LeakedModel],
        draws: Sequence[SuspectDraw],
        known: OpenLayout,
        centre: Centre,
        tests: Mapping[Frame, Collection[int]],
        entries: int | None,
    ) -> None:
        """Begin.

        Args:
            found: the models.
            draws: all draws.
            known: the layout of θ.
            centre: what is removed from every tensor.
            tests: the numbers of the draws whose noise is sought in each frame.
            entries: how many entries to read of each tensor; None for all.
        """
        self._found, self._draws, self._known = found, draws, known
        self._centre, self._tests, self._entries = centre, tests, entries
        self.evidence = {
            (model, frame, number): NoiseEvidence(draws[number].mixture.shape[1])
            for model in range(len(found))
            for frame, numbers in tests.items()
            for number in numbers
        }
        self.unmodified = {
            number: [np.zeros(len(draw.mixture)) for _ in found]
            for number, draw in enumerate(draws)
        }
        """Squares of the z that each whole, unmodified copy is expected to have, by draw, model."""
        self.read = 0
        """Entries read of each model."""
        self.whole = True
        """Whether no entry of the groups was left out."""

    def add(self, group: Group) -> None:
        """Read one group of all models."""
        drawn = {frame: self._drawn(frame, group) for frame in self._tests}
        for tensor in group.tensors:
            numbers = [n for n, draw in enumerate(self._draws) if draw.noise.sigma.get(group.name)]
            shape = self._known.shapes[tensor]
            maps = {
                frame: BlockwiseTransform(step.maps.get(tensor, ()), shape)
                for frame, step in drawn.items()
            }
            for piece in self._pieces(group, tensor, list(maps.values())):
                self._add_piece(piece, drawn, maps, numbers)
                self.read += piece.entries

    def _drawn(self, frame: Frame, group: Group) -> Reparameterization:
        if frame.draw is None or frame.position is None or group.layer is None:
            return _UNMOVED
        draw = self._draws[frame.draw]
        master, id_ = draw.noise.master, draw.noise.id
        return draw_layer(draw.transforms, group.layer, master, id_, frame.position)

    def _pieces(
        self, group: Group, tensor: str, transforms: list[BlockwiseTransform]
    ) -> Iterator[Piece]:
        """The pieces of a tensor to read; a sample is one of them, chosen by the secret."""
        shape = self._known.shapes[tensor]
        blocks = list(row_blocks(shape, transforms, self._entries or BLOCK))
        if self._entries is not None and len(blocks) > 1:
            key = derive_key(self._draws[0].noise.master, "trace", tensor)
            self.whole = False
            blocks = [blocks[int(IntegerStream(key).below(len(blocks), 1)[0])]]
        for start, stop in blocks:
            yield Piece(group, tensor, shape, start, stop)

    def _add_piece(
        self,
        piece: Piece,
        drawn: Mapping[Frame, Reparameterization],
        maps: Mapping[Frame, BlockwiseTransform],
        numbers: Sequence[int],
    ) -> None:
        basis = self._centre.basis(piece.tensor, piece.shape, piece.start, piece.stop)
        residuals = _Residuals(self._found, self._centre, basis, piece)
        for number in numbers:
            draw = self._draws[number]
            frames = [frame for frame, sought in self._tests.items() if number in sought]
            noise = _normals(draw, piece) if frames else np.zeros((0, 0))
            gram = noise @ noise.T
            sigma = draw.noise.sigma[piece.group.name]
            for frame in frames:
                several = len(self._tests[frame]) > 1
                target = drawn[frame].target(piece.tensor)
                for model, found in residuals.of(frame, target, maps[frame], keep=several):
                    self.evidence[model, frame, number].add(sigma, *found, noise, gram)
            self._add_unmodified(number, residuals, piece)

    def _add_unmodified(self, number: int, residuals: _Residuals, piece: Piece) -> None:
        """What the z² of each whole copy grows by, if nothing but the centre hides its noise."""
        draw, centre = self._draws[number], self._centre
        sigma = draw.noise.sigma[piece.group.name]
        sizes = sigma * np.linalg.norm(draw.mixture, axis=1)
        for model, raw, spread in residuals.sizes():
            if centre.model is not None:
                hidden = 0.0
            elif centre.base is not None:
                hidden = (sigma / draw.kappa) ** 2
            else:
                hidden = spread
            hidden += draw.noise.offset_scale.get(piece.group.name, 0.0) ** 2
            hidden += raw * _ROUNDING[draw.dtype] ** 2 / 3
            self.unmodified[number][model] += piece.entries * sizes**2 / (hidden + sizes**2)


class _Residuals:
    """What the centre does not explain of one piece of each found model, by frame."""

    def __init__(
        self, found: Sequence[LeakedModel], centre: Centre, basis: Array, piece: Piece
    ) -> None:
        self._found, self._centre, self._basis, self._piece = found, centre, basis, piece
        self._kept: dict[Frame, list[tuple[int, tuple[Array, float]]]] = {}
        self._sizes: list[tuple[int, float, float]] | None = None

    def of(
        self, frame: Frame, target: str, transform: BlockwiseTransform, *, keep: bool
    ) -> list[tuple[int, tuple[Array, float]]]:
        """(number of the model, (residual, its mean square)) of the models that have the tensor."""
        if not transform.maps and target == self._piece.tensor:
            frame, keep = Frame(), True  # T moves nothing here: all such frames are alike
        kept = self._kept.get(frame)
        if kept is not None:
            return kept
        result = []
        for number, model in enumerate(self._found):
            residual = self._residual(model, target, transform)
            if residual is not None:
                result.append((number, residual))
        if keep:
            self._kept[frame] = result
        return result

    def _residual(
        self, model: LeakedModel, target: str, transform: BlockwiseTransform
    ) -> tuple[Array, float] | None:
        piece = self._piece
        places = transform.places(piece.start, piece.stop)
        rows = model.rows(target, piece.shape, places)
        if rows is None:
            return None
        vector = flat(_undone(transform, rows, piece.start))
        size = float(vector @ vector) / max(len(vector), 1)
        residual = without(self._basis, vector)
        moved = self._centre.moved(target, piece.shape, places) if transform.maps else None
        if moved is not None:
            other = without(self._basis, flat(_undone(transform, moved, piece.start)))
            square = float(other @ other)
            if square > 0:
                residual -= other * (float(other @ residual) / square)
        mean = max(float(residual @ residual) / len(residual), size * _LEAST_RESIDUAL)
        return (residual, mean) if mean > 0 else None

    def sizes(self) -> list[tuple[int, float, float]]:
        """(number of the model, mean square, variance) of the piece in models that have it."""
        if self._sizes is None:
            piece, self._sizes = self._piece, []
            places: Index = np.arange(piece.start, piece.stop)
            for number, model in enumerate(self._found):
                rows = model.rows(piece.tensor, piece.shape, places)
                if rows is not None:
                    vector = flat(rows)
                    raw = float(vector @ vector) / max(len(vector), 1)
                    self._sizes.append((number, raw, raw - float(vector.mean()) ** 2))
        return self._sizes


def _undone(transform: BlockwiseTransform, rows: torch.Tensor, start: int) -> torch.Tensor:
    return transform.invert(rows, start) if transform.maps else rows


def _normals(draw: SuspectDraw, piece: Piece) -> Array:
    """The draw's standard normals at the piece's entries, (s, n)."""
    columns = matrix(piece.shape)[1]
    first, last = piece.start * columns, piece.stop * columns
    streams = [
        normals(draw.noise.stream_key(number, piece.tensor), first, last)
        for number in range(draw.mixture.shape[1])
    ]
    stacked: Array = torch.stack(streams).to(torch.float64).numpy()
    return stacked
