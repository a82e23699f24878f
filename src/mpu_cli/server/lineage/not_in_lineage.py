"""Errors for a model or an update that the lineage does not know, naming the wrong argument."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.read import open_manifest
from mpu_cli.errors import GateError, MpuError
from mpu_cli.server.lineage.models import HANDOFFS, MODELS, Lineage
from mpu_cli.server.lineage.second_lineage import lineages_with, places


def unknown_model(digest: str, where: Path, lineage: Lineage, updates: Sequence[Path]) -> GateError:
    """The error for a model that `aggregate` was given and the lineage does not have."""
    known = [
        record
        for path in updates
        if (id_ := _handoff_of(path)) and (record := lineage.handoffs.get(id_))
    ]
    others = lineages_with(
        f"{MODELS}/{digest}.yaml", places(lineage.path, where, *updates), lineage.path
    )
    if known:
        hint = (
            f"the update's handoff was made from the model of digest {known[0].model[:12]}…: give"
            " that model, or one that aggregate made from it, as --model (mpu verify MODEL prints a"
            " model's digest)"
        )
    elif others:
        hint = f"give the secret of this model's lineage: --secret {quote(str(others[0]))}"
    else:
        hint = (
            "the update answers no handoff of this lineage either: give as --secret the directory"
            " that mpu perturb wrote for it"
        )
    return GateError(
        f"{where}: this model (digest {digest[:12]}…) is not in the lineage of {lineage.path}", hint
    )


def unknown_handoff(id_: str, update: Path, lineage: Lineage) -> GateError:
    """The error for an update of a handoff that the lineage never made."""
    others = lineages_with(f"{HANDOFFS}/{id_}.yaml", places(lineage.path, update), lineage.path)
    right = (
        quote(str(others[0])) if others else "the directory that mpu perturb wrote for that handoff"
    )
    return GateError(
        f"{update}: answers handoff {id_}, which this lineage never made", f"give --secret {right}"
    )


def _handoff_of(update: Path) -> str | None:
    try:
        manifest = open_manifest(update).manifest
    except (MpuError, OSError):
        return None
    return manifest.handoff_id if isinstance(manifest, UpdateManifest) else None
