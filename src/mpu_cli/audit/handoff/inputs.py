"""The inputs of a handoff audit, matched with the secret's records and refused if they differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.locate import locate
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.recognise import SECRET, instead_of
from mpu_cli.errors import BadModelError, BadSecretError, GateError, MpuError
from mpu_cli.server.lineage.models import HANDOFFS, Lineage
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.lineage.second_lineage import lineages_with, places

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FoundBase:
    """The base with which to attack, if there is one."""

    checkpoint: Checkpoint | None
    remark: str = ""
    """Why there is none, or where it was found."""


def read_lineage(secret: Path) -> Lineage:
    """Read the secret; nothing is written.

    Raises:
        BadSecretError: it is no secret directory, or was altered.
    """
    if not secret.is_dir():
        raise instead_of(secret, SECRET, BadSecretError)
    return Lineage.read(secret)


def match_records(holding: Holding, lineage: Lineage) -> list[HandoffRecord]:
    """The record of each handoff held.

    Raises:
        GateError: the lineage did not make a handoff, or made another under its id.
    """
    records = []
    for path, manifest in zip(holding.paths, holding.manifests, strict=True):
        record = lineage.handoffs.get(manifest.id)
        if record is None:
            others = lineages_with(
                f"{HANDOFFS}/{manifest.id}.yaml", places(lineage.path, path), lineage.path
            )
            right = quote(str(others[0])) if others else "the directory that mpu perturb wrote"
            raise GateError(
                f"{path}: handoff {manifest.id} is not in the lineage of {lineage.path}",
                f"give --secret {right}",
            )
        if record.digest != manifest.digest:
            raise GateError(
                f"{path}: is not the handoff {manifest.id} that {lineage.path} has recorded",
                "give the handoff as mpu perturb wrote it; mpu perturb --reissue writes it again",
            )
        records.append(record)
    return records


def match_models(
    models: Sequence[str],
    holding: Holding,
    records: Sequence[HandoffRecord],
    progress: Progress | None = None,
) -> Mapping[str, Checkpoint]:
    """The models that the handoffs were made from, by digest.

    Raises:
        GateError: a model is that of no handoff, or a handoff's model is missing.
    """
    found: dict[str, Checkpoint] = {}
    needed = {record.model for record in records}
    for model in models:
        checkpoint = open_checkpoint(locate(model).path)
        digest = model_digest(checkpoint, progress)
        if digest not in needed:
            raise GateError(
                f"--model {model}: no handoff given was made from it (digest {digest[:12]}…)",
                f"give the model of digest {min(needed)[:12]}… (mpu verify MODEL prints a digest)",
            )
        found[digest] = checkpoint
    for path, record in zip(holding.paths, records, strict=True):
        if record.model not in found:
            raise GateError(
                f"{path}: the model that it was made from (digest {record.model[:12]}…) is not"
                " given",
                "give each round's model with a --model of its own",
            )
    return found


def find_base(given: str | None, lineage: Lineage, progress: Progress | None = None) -> FoundBase:
    """The base: as given, or where the secret says that it was.

    Raises:
        BadModelError: the given base is not the lineage's.
    """
    expected, source = lineage.secret.base, lineage.secret.base_source
    if given is not None:
        checkpoint = open_checkpoint(locate(given).path)
        if expected is None:
            raise BadModelError(
                f"--base {given}: this lineage was begun without a base", "leave --base out"
            )
        digest = model_digest(checkpoint, progress)
        if digest != expected:
            raise BadModelError(
                f"--base {given}: another base (digest {digest[:12]}…) than this lineage began with"
                f" ({expected[:12]}…)",
                "give the base of the first mpu perturb",
            )
        return FoundBase(checkpoint)
    if expected is None:
        return FoundBase(None, "this lineage was begun without a base: attacked without one")
    if source is None:
        return FoundBase(None, "no --base, and the secret names none: attacked without a base")
    try:
        checkpoint = open_checkpoint(locate(source).path)
        if model_digest(checkpoint, progress) == expected:
            return FoundBase(checkpoint, f"base: {source}, as the secret says")
    except (MpuError, OSError):
        return FoundBase(None, f"the base is no longer at {source}: attacked without it")
    return FoundBase(None, f"another model is now at {source}: attacked without a base")
