"""Groups whose members mask their updates, for tests of both parties."""

from __future__ import annotations

from mpu_cli.bundle.manifest import MANIFEST, UpdateManifest, decode, encode
from mpu_cli.client.masks.group import read_group
from mpu_cli.client.masks.key import new_key, public_path, read_key
from mpu_cli.client.masks.mask_update import mask_update


def make_group(root, *names):
    """New keys under `root`, in the order of the names, and their group."""
    for name in names:
        new_key(root / f"{name}.key", name)
    keys = [read_key(root / f"{name}.key") for name in names]
    return keys, read_group(*(public_path(key.path) for key in keys))


def mask(update, handoff, group, key, out, shard_bytes=10**9):
    """`mpu mask update` through the library; returns where the result is."""
    mask_update(update, handoff, group, key, out, shard_bytes)
    return out


def altered(update, **changes):
    """Write other content into an update's manifest, consistent with itself."""
    honest = decode((update / MANIFEST).read_bytes(), update)
    fields = {
        "handoff_id": honest.handoff_id,
        "handoff_digest": honest.handoff_digest,
        "copies": honest.copies,
        "mask": honest.mask,
    }
    (update / MANIFEST).write_bytes(encode(UpdateManifest(**{**fields, **changes})))
    return update
