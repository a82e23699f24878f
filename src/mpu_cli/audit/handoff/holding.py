"""What an attacker holds: published copies, perhaps the public base, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.read import is_bundle, read_handoff
from mpu_cli.bundle.tensors import open_copies, shapes
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.checkpoint.recognise import HANDOFF, instead_of
from mpu_cli.errors import BadBundleError, BadModelError, UsageError

if TYPE_CHECKING:
    import torch

    Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class HeldCopy:
    """One published copy."""

    label: str
    """Handoff and copy, such as `to-client/copy-1`."""
    handoff: int
    """Number of its handoff among those held, from 0."""
    name: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Holding:
    """The copies of some handoffs of one model or its later rounds, and the base if it is known."""

    manifests: tuple[HandoffManifest, ...]
    paths: tuple[Path, ...]
    """What messages call the handoffs."""
    copies: tuple[HeldCopy, ...]
    base: Checkpoint | None

    @cached_property
    def layout(self) -> ModelLayout:
        """The layout, read from the first copy; all copies have the same shapes."""
        first = self.copies[0].checkpoint
        return read_layout(first.config, shapes(first.tensors), first.path)

    @property
    def has_base(self) -> bool:
        """Whether the attacker knows the base; else the first copy is the anchor of all."""
        return self.base is not None

    def layer_of_copy(self, number: int, index: int) -> Tensors:
        """The noised tensors of one layer of a copy, float32."""
        return self._layer(self.copies[number].checkpoint, index)

    def layer_of_base(self, index: int) -> Tensors | None:
        """The same of the base, float32; None if the attacker has no base."""
        return None if self.base is None else self._layer(self.base, index)

    def _layer(self, checkpoint: Checkpoint, index: int) -> Tensors:
        import torch

        from mpu_cli.checkpoint.dtypes import read_tensor

        tensors = {}
        for name in self.layout.layers[index].noised:
            tensor = read_tensor(checkpoint.tensors[name]).float()
            if not bool(torch.isfinite(tensor).all()):
                raise BadModelError(
                    f"{checkpoint.path}: tensor {name} holds NaN or infinity", "copy it again"
                )
            tensors[name] = tensor
        return tensors


def open_holding(
    paths: Sequence[Path],
    base: Checkpoint | None,
    progress: Progress | None = None,
    names: Sequence[str] = (),
    given: Sequence[Path] = (),
) -> Holding:
    """Verify handoffs completely and open their copies.

    Args:
        paths: directories of handoffs.
        base: the public base.
        progress: of the hashing.
        names: what to call the handoffs; default: their directories' names.
        given: what messages call them, such as the tar files that they were unpacked from.

    Raises:
        BadBundleError: a handoff is malformed or altered, or its copies have other tensors than
            the first handoff's.
        UsageError: one handoff is given twice.
        BadModelError: the base has other tensors.
    """
    manifests: list[HandoffManifest] = []
    copies: list[HeldCopy] = []
    names = _distinct(names or [path.name for path in paths])
    given = list(given or paths)
    for number, (path, shown) in enumerate(zip(paths, given, strict=True)):
        if not is_bundle(path):
            raise instead_of(path, HANDOFF, BadBundleError)
        manifest = read_handoff(path, progress)
        if manifest.id in {other.id for other in manifests}:
            raise UsageError(f"{shown}: this handoff is given twice", "give each handoff once")
        manifests.append(manifest)
        for name, checkpoint in open_copies(path, manifest).items():
            if copies and shapes(checkpoint.tensors) != shapes(copies[0].checkpoint.tensors):
                raise BadBundleError(
                    f"{shown}: its tensors differ from those of {given[0]}",
                    "give handoffs of one lineage",
                )
            copies.append(HeldCopy(f"{names[number]}/{name}", number, name, checkpoint))
    holding = Holding(tuple(manifests), tuple(given), tuple(copies), base)
    if base is not None:
        _check_base(holding, base)
    return holding


def _distinct(names: Sequence[str]) -> list[str]:
    return (
        list(names)
        if len(set(names)) == len(names)
        else [f"{name}-{number}" for number, name in enumerate(names, 1)]
    )


def _check_base(holding: Holding, base: Checkpoint) -> None:
    first = holding.copies[0].checkpoint
    for layer in holding.layout.layers:
        for name in layer.noised:
            if name not in base.tensors:
                raise BadModelError(
                    f"--base {base.path}: has no tensor {name}", "give the base of this model"
                )
            if base.tensors[name].shape != first.tensors[name].shape:
                raise BadModelError(
                    f"--base {base.path}: tensor {name} has shape"
                    f" {list(base.tensors[name].shape)}, and"
                    f" {list(first.tensors[name].shape)} in the copies",
                    "give the base of this model",
                )
