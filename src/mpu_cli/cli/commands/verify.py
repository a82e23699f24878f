"""`mpu verify`: every check that can be made of a directory (both parties; never torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.read import read_bundle
from mpu_cli.checkpoint.recognise import (
    ANY,
    BUNDLE,
    HANDOFF,
    MODEL,
    RECORD,
    SECRET,
    UPDATE,
    instead_of,
    recognise,
)
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import given_path
from mpu_cli.cli.output import Output
from mpu_cli.cli.progress import ProgressCallback
from mpu_cli.errors import BadModelError
from mpu_cli.option import REQUIRED, option

GUIDE = Guide(
    "both",
    "Check a directory completely.",
    ("mpu verify to-client --expect handoff",),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions(Job):
    """What `mpu verify` was asked to do."""

    path: str = option(
        REQUIRED,
        "Handoff or update (or its tar file), secret, model directory or Hub id.",
        panel="Model",
        flag="PATH",
    )
    expect: Literal["handoff", "update", "secret", "model"] | None = option(
        None,
        "Kind that the directory must have.",
    )


@command()
def verify(job: VerifyOptions, output: Output) -> None:
    """Check a directory completely: manifest, listing, digests, headers, key sets, finite values.

    Exit code 0 means that every check passed, 3 that one failed, and 1 that an update is complete
    but holds NaN or infinity. In a script, give --expect: without it, the sender decides what kind
    of directory you accept.

    Two things are not checked: who made the directory (there is no signature yet), and whether an
    update belongs to a handoff (aggregate checks that against its records).
    """
    path, expect = job.path, job.expect
    with (
        unpacked(output, given_path(path)) as [place],
        output.progress(f"checking {path}") as progress,
    ):
        data = _checked(place, expect, progress)
    if data.get("origin") == "test":
        output.warn("this secret was prepared by a test (origin: test): it hides nothing")
    output.result({"path": path, "verified": True, **data}, f"{path}: {data['summary']}")


def _checked(place: Path, expect: str | None, progress: ProgressCallback) -> dict[str, Any]:
    kind = recognise(place).kind
    wanted = expect or (kind if kind in {HANDOFF, UPDATE, SECRET, BUNDLE} else MODEL)
    if kind == RECORD or (kind != wanted and not (kind == BUNDLE and wanted in {HANDOFF, UPDATE})):
        raise instead_of(place, expect or ANY)
    if wanted == SECRET:
        return _secret(place)
    return (_model if wanted == MODEL else _bundle)(place, progress)


def _bundle(path: Path, progress: ProgressCallback) -> dict[str, Any]:
    from mpu_cli.bundle.finite import FileNumbers
    from mpu_cli.bundle.payload import check_update_tensors
    from mpu_cli.bundle.tensors import open_copies
    from mpu_cli.checkpoint.side_files import refuse_unpublished

    numbers = FileNumbers()
    manifest = read_bundle(path, numbers.digest, progress)
    files = sum(len(copy.files) for copy in manifest.copies)
    if isinstance(manifest, HandoffManifest):
        open_copies(path, manifest)
        for copy in manifest.copies:
            refuse_unpublished(path / copy.name)
            _require_finite(
                path / copy.name, numbers.not_finite(path / copy.name / name for name in copy.files)
            )
        return {
            "kind": "handoff",
            "digest": manifest.digest,
            "summary": f"handoff, {files} files match, every copy is complete",
        }
    check_update_tensors(path, manifest, numbers)
    what = "update, {} files match, every entry is finite"
    if (mask := manifest.mask) is not None:
        what = f"masked update, {{}} files match, member {mask.member} of {len(mask.group)}"
    return {"kind": "update", "digest": manifest.digest, "summary": what.format(files)}


def _require_finite(path: Path, bad: str | None) -> None:
    if bad is not None:
        raise BadModelError(f"{path}: tensor {bad} holds NaN or infinity")


def _secret(path: Path) -> dict[str, Any]:
    from mpu_cli.server.lineage.models import Lineage, require_nothing_else

    lineage = Lineage.read(path)
    require_nothing_else(path)
    return {
        "kind": "secret",
        "origin": lineage.secret.origin,
        "summary": (
            f"secret, {len(lineage.handoffs)} handoffs and {len(lineage.models)} models, every"
            " record is authentic"
        ),
    }


def _model(path: Path, progress: ProgressCallback) -> dict[str, Any]:
    from mpu_cli.architectures.read import read_layout
    from mpu_cli.bundle.finite import examine
    from mpu_cli.bundle.tensors import shapes
    from mpu_cli.checkpoint.model import open_checkpoint
    from mpu_cli.checkpoint.side_files import check_side_files, refuse_unread

    model = open_checkpoint(path)
    refuse_unread(model)
    check_side_files(path)
    read_layout(model.config, shapes(model.tensors), path)
    digest, bad = examine(model, progress)
    _require_finite(path, bad)
    return {
        "kind": "model",
        "digest": digest,
        "summary": f"model, every tensor is accounted for, digest {digest}",
    }
