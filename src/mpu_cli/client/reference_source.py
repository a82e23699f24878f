"""`--reference`: whose log-probabilities NPO, DPO, UnDIAL and the KL retain loss compare with, if not the copy's own.

Over several rounds that is the model before the first of them: the first round's handoff, a copy
for each copy, or one model directory for all. Only what a model *says* matters here, so it may be
reparameterized otherwise than the copy.
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
    """An opened reference; `digest` names its weights and its configuration (a handoff's: all files)."""

    path: Path
    digest: str
    model: Checkpoint | None = None
    copies: Mapping[str, Checkpoint] | None = None

    def of(self, name: str | None, trained: Checkpoint) -> Path:
        """The directory of the model that copy `name` (None = a plain model) is compared with.

        Raises:
            UsageError: the reference has no such copy, or is a handoff where a model is trained.
            BadModelError: its tensors are others than those of the model that is trained.
        """
        found = self.model
        if self.copies is not None:
            if name is None:
                raise UsageError(
                    f"--reference {self.path}: is a handoff, and what is trained is a model",
                    "give the model before the first round, or one of the handoff's copies",
                )
            if name not in self.copies:
                raise UsageError(
                    f"--reference {self.path}: has no {name}",
                    "give a handoff of as many copies, or one model directory for all",
                )
            found = self.copies[name]
        assert found is not None
        ours, theirs = shapes(trained.tensors), shapes(found.tensors)
        for tensor in sorted(ours.keys() | theirs.keys()):
            if ours.get(tensor) != theirs.get(tensor):
                there, here = (
                    list(each[tensor]) if tensor in each else "missing" for each in (theirs, ours)
                )
                raise BadModelError(
                    f"{found.path}: tensor {tensor} is {there} here and {here} in the model that is"
                    " trained",
                    "give --reference the first round's handoff of the same model",
                )
        return found.path


def open_reference(path: Path) -> ReferenceSource:
    """Open a handoff or a model directory as a reference, completely verified.

    Raises:
        BadBundleError, BadModelError: it is neither, or damaged.
    """
    if is_bundle(path):
        manifest = read_handoff(path)
        return ReferenceSource(path, manifest.digest, copies=open_copies(path, manifest))
    model = open_checkpoint(path)
    return ReferenceSource(path, loaded_digest(model), model=model)
