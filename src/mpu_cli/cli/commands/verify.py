"""`mpu verify`: every check that can be made of a directory (both parties; never torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mpu_cli.bundle.manifest import HandoffManifest
from mpu_cli.bundle.read import is_bundle, read_bundle
from mpu_cli.cli.options import Config, Json
from mpu_cli.cli.output import Output
from mpu_cli.errors import BadInputError, BadModelError


def verify(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="A handoff, an update, a secret directory or a model directory.")],
    json: Json = False,
    config: Config = None,
) -> None:
    """Check a directory completely: manifest, listing, digests, headers, key sets, finite values.

    Exit 0 if all of it holds, 3 if not, 1 for an update that is whole but holds NaN or infinity.

    What it does not check: who made it (there is no signature yet), and whether an update belongs to a handoff
    (aggregate does, against its records).
    """
    output = Output(context, as_json=json)
    if not path.is_dir():
        raise BadInputError(f"{path}: is not a directory" if path.exists() else f"{path}: no such directory")
    from mpu_cli.server.lineage import is_secret

    data = _secret(path) if is_secret(path) else _bundle(path) if is_bundle(path) else _model(path)
    if data.get("origin") == "test":
        output.warn("this secret was prepared by a test (origin: test): it hides nothing")
    output.result({"path": str(path), "verified": True, **data}, f"{path}: {data['summary']}")


def _bundle(path: Path) -> dict[str, Any]:
    from mpu_cli.bundle.finite import FileNumbers
    from mpu_cli.bundle.payload import check_update_tensors
    from mpu_cli.bundle.tensors import open_copies

    numbers = FileNumbers()
    manifest = read_bundle(path, numbers.digest)
    files = sum(len(copy.files) for copy in manifest.copies)
    if isinstance(manifest, HandoffManifest):
        open_copies(path, manifest)
        for copy in manifest.copies:
            _require_finite(path / copy.name, numbers.not_finite(path / copy.name / name for name in copy.files))
        return {"kind": "handoff", "digest": manifest.digest, "summary": f"handoff, {files} files match, every copy is complete"}
    check_update_tensors(path, manifest, numbers)
    return {"kind": "update", "digest": manifest.digest, "summary": f"update, {files} files match, every entry is finite"}


def _require_finite(path: Path, bad: str | None) -> None:
    if bad is not None:
        raise BadModelError(f"{path}: tensor {bad} holds NaN or infinity")


def _secret(path: Path) -> dict[str, Any]:
    from mpu_cli.server.lineage import Lineage

    lineage = Lineage.read(path)
    return {
        "kind": "secret",
        "origin": lineage.secret.origin,
        "summary": f"secret, {len(lineage.handoffs)} handoffs and {len(lineage.models)} models, every record is authentic",
    }


def _model(path: Path) -> dict[str, Any]:
    from mpu_cli.architectures.read import read_layout
    from mpu_cli.bundle.finite import examine
    from mpu_cli.bundle.tensors import shapes
    from mpu_cli.checkpoint.model import open_checkpoint

    model = open_checkpoint(path)
    read_layout(model.config, shapes(model.tensors), path)
    digest, bad = examine(model)
    _require_finite(path, bad)
    return {"kind": "model", "digest": digest, "summary": f"model, every tensor is accounted for, digest {digest}"}
