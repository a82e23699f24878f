"""What `mpu inspect` says of an update; it never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.bundle.adapter import LowRankChange
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.mask import readable
from mpu_cli.bundle.masked import open_masked
from mpu_cli.bundle.payload import open_changes
from mpu_cli.cli.next_steps import on_update
from mpu_cli.cli.output import facts, size, table
from mpu_cli.cli.signing import signature_content, who_signed

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mpu_cli.bundle.signatures.trust import BundleSigner


def update_view(
    path: Path, given: Path, manifest: UpdateManifest, signer: BundleSigner | None
) -> tuple[dict[str, Any], list[RenderableType]]:
    """Describe the update at `path`, which messages call `given`: data, and what is printed."""
    mask, copies = manifest.mask, list[dict[str, Any]]()
    for copy in manifest.copies:
        place = path / copy.name
        tensors = open_changes(place, copy.payload) if mask is None else open_masked(place)
        copies.append(
            {
                "name": copy.name,
                "payload": copy.payload,
                "tensors": len(tensors),
                "dtype": next((change.dtype for change in tensors.values()), "-"),
                "rank": next(
                    (c.a.shape[0] for c in tensors.values() if isinstance(c, LowRankChange)), None
                ),
                "bytes": sum(entry.bytes for entry in copy.files.values()),
            }
        )
    data = {
        "kind": "update",
        "path": str(given),
        "handoff": manifest.handoff_id,
        "digest": manifest.digest,
        "signature": signature_content(signer),
        "mask": None
        if mask is None
        else {"group": mask.digest, "member": mask.member, "members": len(mask.group)},
        "copies": copies,
    }
    rows = [
        (
            c["name"],
            f"lora, rank {c['rank']}" if c["rank"] else c["payload"],
            str(c["tensors"]),
            c["dtype"],
            size(c["bytes"]),
        )
        for c in copies
    ]
    properties = {
        "kind": "update: how a client's training changed the copies",
        "handoff": manifest.handoff_id,
        "digest": manifest.digest,
        "signature": who_signed(signer),
    }
    if mask is not None:
        properties["masked"] = (
            f"member {mask.member} of {len(mask.group)} of group {readable(mask.digest)}; only the"
            " sum of all members' updates can be read"
        )
    return data, [
        facts(properties),
        table(
            "copy", "payload", "tensors" if mask else "changed tensors", "dtype", "size", rows=rows
        ),
        "",
        *on_update(given, masked=len(mask.group) if mask else 0),
    ]
