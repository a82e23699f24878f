"""`mpu verify`: every check that can be made of a directory (both parties; never torch)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.read import verify_bundle
from mpu_cli.bundle.signatures.allowed_signers import AllowedSigners, require_name
from mpu_cli.bundle.signatures.trust import ANYBODY, Trust
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
from mpu_cli.cli.signing import Signing, signature_content, who_signed
from mpu_cli.errors import BadModelError, UsageError
from mpu_cli.option import REQUIRED, option, same_option

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
    allowed_signers: Path | None = same_option(Signing, "allowed_signers")
    signer: str | None = option(
        None,
        "Name of the signer in that file.",
        shown="anybody in the file",
        metavar="NAME",
    )


@command()
def verify(job: VerifyOptions, output: Output) -> None:
    """Check a directory completely: manifest, listing, digests, headers, key sets, finite values.

    Exit code 0 means that every check passed, 3 that one failed, and 1 that a signature does not
    fit or is not by whom it must be, or that an update holds NaN or infinity. In a script, give
    --expect: without it, the sender decides what kind of directory you accept.

    A signature must fit; whose it is, is checked with --allowed-signers. Not checked is whether an
    update belongs to a handoff (aggregate checks that against its records).
    """
    path, expect = job.path, job.expect
    trust = _trust(job)
    with (
        unpacked(output, given_path(path)) as [place],
        output.progress(f"checking {path}") as progress,
    ):
        data = _checked(place, expect, trust, progress)
    if data.get("origin") == "test":
        output.warn("this secret was prepared by a test (origin: test): it hides nothing")
    output.result({"path": path, "verified": True, **data}, f"{path}: {data['summary']}")


def _trust(job: VerifyOptions) -> Trust:
    if job.allowed_signers is None:
        if job.signer is not None:
            raise UsageError(
                "--signer has no effect without --allowed-signers",
                "give --allowed-signers FILE too",
            )
        return ANYBODY
    name = None if job.signer is None else require_name(job.signer, "--signer")
    return Trust(AllowedSigners.read(job.allowed_signers), name)


def _checked(
    place: Path, expect: str | None, trust: Trust, progress: ProgressCallback
) -> dict[str, Any]:
    kind = recognise(place).kind
    wanted = expect or (kind if kind in {HANDOFF, UPDATE, SECRET, BUNDLE} else MODEL)
    if kind == RECORD or (kind != wanted and not (kind == BUNDLE and wanted in {HANDOFF, UPDATE})):
        raise instead_of(place, expect or ANY)
    if wanted in {SECRET, MODEL}:
        trust.accept(place, None)  # neither carries a signature
        return _secret(place) if wanted == SECRET else _model(place, progress)
    return _bundle(place, trust, progress)


def _bundle(path: Path, trust: Trust, progress: ProgressCallback) -> dict[str, Any]:
    from mpu_cli.bundle.finite import FileNumbers
    from mpu_cli.bundle.payload import check_update_tensors
    from mpu_cli.bundle.tensors import open_copies
    from mpu_cli.checkpoint.side_files import refuse_unpublished

    numbers = FileNumbers()
    verified = verify_bundle(path, numbers.digest, progress, trust=trust)
    manifest, signature = verified.manifest, signature_content(verified.signer)
    signed = who_signed(verified.signer)
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
            "signature": signature,
            "summary": f"handoff, {files} files match, every copy is complete; {signed}",
        }
    check_update_tensors(path, manifest, numbers)
    what = "update, {} files match, every entry is finite"
    if (mask := manifest.mask) is not None:
        what = f"masked update, {{}} files match, member {mask.member} of {len(mask.group)}"
    return {
        "kind": "update",
        "digest": manifest.digest,
        "signature": signature,
        "summary": f"{what.format(files)}; {signed}",
    }


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
