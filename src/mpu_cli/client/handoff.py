"""A handoff as the client uses it: verified, opened, and with what the client itself freezes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.architectures.projections import Projections, projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.finite import FileNumbers
from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.read import read_handoff
from mpu_cli.bundle.signatures.trust import ANYBODY, Trust
from mpu_cli.bundle.tensors import is_frozen, open_copies, shapes
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.file_state import WatchedFiles
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import BadBundleError


@dataclass(frozen=True, slots=True)
class OpenHandoff:
    """A verified handoff and its copies."""

    manifest: HandoffManifest
    copies: Mapping[str, Checkpoint]
    frozen: tuple[str, ...]
    """What the manifest freezes, and the embeddings."""
    droppable: frozenset[str]
    """Tensors that trainers may leave out."""
    matrices: Projections
    """The attention and feed-forward projections, on which an adapter may sit."""
    files: WatchedFiles
    """All files of the copies; ask it again when a copy was used."""


def open_handoff(
    path: Path,
    *,
    train_embeddings: bool = False,
    progress: Progress | None = None,
    trust: Trust = ANYBODY,
) -> OpenHandoff:
    """Verify a handoff completely and open its copies.

    Input and output embeddings are frozen whatever the manifest says, unless the client asks to
    train them: the manifest comes from the server, and embedding rows that move tell the server
    which tokens the forget set holds.

    Raises:
        BadBundleError: see `read_handoff` and `open_copies`; or a weight is NaN or infinite; or
            nothing is left to train.
        BadModelError: the copies are of an architecture that this mpu does not know.
    """
    numbers = FileNumbers()
    files = WatchedFiles(numbers.digest)
    manifest = read_handoff(path, progress, digest=files.digest, trust=trust)
    copies = open_copies(path, manifest)
    for copy in manifest.copies:
        if (bad := numbers.not_finite(path / copy.name / name for name in copy.files)) is not None:
            raise BadBundleError(
                f"{path / copy.name}: tensor {bad} holds NaN or infinity",
                "ask the server for another handoff",
            )
    first = next(iter(copies.values()))
    layout = read_layout(first.config, shapes(first.tensors), first.path)
    _check_cut(path, manifest, len(layout.layers), first)
    frozen = tuple(dict.fromkeys((*manifest.frozen, *(() if train_embeddings else layout.frozen))))
    if all(is_frozen(name, frozen) for name in first.tensors):
        raise BadBundleError(
            f"{path}: the handoff freezes every tensor; there is nothing to train",
            "ask the server for another",
        )
    droppable = frozenset(name for layer in layout.layers for name in layer.untouched)
    return OpenHandoff(
        manifest, copies, frozen, droppable, projections(layout, shapes(first.tensors)), files
    )


def _check_cut(path: Path, manifest: HandoffManifest, layers: int, copy: Checkpoint) -> None:
    cut = manifest.cut
    if cut is None:
        return
    odd = [name for name in cut.stand_ins if name not in copy.tensors]
    if cut.layers != layers or odd or not set(cut.stand_ins) <= set(manifest.frozen):
        what = f"lists the stand-in {odd[0]}" if odd else f"speaks of {cut.layers} layers"
        raise BadBundleError(
            f"{path}: the manifest {what}, and its copies have {layers} layers and other tensors",
            "ask the server for another handoff",
        )
