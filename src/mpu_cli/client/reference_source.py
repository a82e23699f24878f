"""`--reference`: the model that NPO, DPO, UnDIAL and the KL retain loss compare with.

Without it, that is the published copy itself. Over several rounds it is the model before round 1:
the first round's handoff, a copy for each copy, or one model directory for all. Only its
log-probabilities matter, so its reparameterization may differ from the copy's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.bundle.read import is_bundle, read_handoff
from mpu_cli.bundle.tensors import open_copies, shapes
from mpu_cli.checkpoint.digest import loaded_digest
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.errors import BadModelError, UsageError


@dataclass(frozen=True, slots=True)
class ReferenceSource:
    """An opened reference; `digest` covers weights and configuration, or all files of a handoff."""

    path: Path
    digest: str
    model: Checkpoint | None = None
    copies: Mapping[str, Checkpoint] | None = None

    def of(self, name: str | None, trained: Checkpoint) -> Path:
        """The model directory that copy `name` (None = a plain model) is compared with.

        Raises:
            UsageError: the reference has no such copy, or is a handoff while a model is trained.
            BadModelError: its tensors differ from those of the model that is trained.
        """
        reference = self.model
        if self.copies is not None:
            if name is None:
                raise UsageError(
                    f"--reference {self.path}: is a handoff, but a model is trained",
                    "give the model before round 1, or one of the handoff's copies",
                )
            if name not in self.copies:
                raise UsageError(
                    f"--reference {self.path}: has no {name}",
                    "give a handoff with as many copies, or one model directory for all",
                )
            reference = self.copies[name]
        assert reference is not None
        ours, theirs = shapes(trained.tensors), shapes(reference.tensors)
        for tensor in sorted(ours.keys() | theirs.keys()):
            if ours.get(tensor) != theirs.get(tensor):
                there, here = (
                    list(shape[tensor]) if tensor in shape else "missing"
                    for shape in (theirs, ours)
                )
                raise BadModelError(
                    f"{reference.path}: tensor {tensor} is {there} here and {here} in the model"
                    " that is trained",
                    "give --reference the first round's handoff of the same model",
                )
        return reference.path


def open_reference(path: Path) -> ReferenceSource:
    """Open a handoff or a model directory as a reference, and verify it completely.

    Raises:
        BadBundleError, BadModelError: it is neither, or damaged.
    """
    if is_bundle(path):
        manifest = read_handoff(path)
        return ReferenceSource(path, manifest.digest, copies=open_copies(path, manifest))
    model = open_checkpoint(path)
    return ReferenceSource(path, loaded_digest(model), model=model)
