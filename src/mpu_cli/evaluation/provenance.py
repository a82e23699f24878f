"""Which model was measured, when and with what: what makes a record evidence.

Numbers and names only, never a row's text.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mpu_cli import __version__
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, decode
from mpu_cli.bundle.read import manifest_bytes
from mpu_cli.checkpoint.digest import file_digest, model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadBundleError, MpuError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "rouge-score")
Progress = Callable[[str, int, int], None]


def identity(model: Path, name: str | None, progress: Progress | None = None) -> dict[str, Any]:
    """The name and the digest of a model directory.

    The digest that `mpu inspect` shows of it and of its lineage.
    """
    return {
        "name": name or model.resolve().name,
        "digest": model_digest(open_checkpoint(model), progress),
    }


def published_as(model: Path) -> tuple[dict[str, str] | None, str | None]:
    """The handoff's id and digest and the copy's name, if the model is a published copy inside its handoff; and a warning.

    The bytes of all files that the handoff lists for the copy are checked. Where they differ, or
    the manifest cannot be read, the model counts as no published copy, and the warning says why.
    """
    place = model.resolve()
    if not (place.parent / MANIFEST).is_file():
        return None, None
    try:
        manifest = decode(manifest_bytes(place.parent), place.parent / MANIFEST)
        if not isinstance(manifest, HandoffManifest):
            return None, None
        copy = next((copy for copy in manifest.copies if copy.name == place.name), None)
        if copy is None:
            raise BadBundleError(f"{place.parent / MANIFEST}: lists no {place.name}")
        for name, entry in copy.files.items():
            if not (place / name).is_file() or file_digest(place / name) != entry.sha256:
                raise BadBundleError(f"{place / name}: is not what {MANIFEST} lists")
    except (MpuError, OSError) as error:
        return (
            None,
            f"the record names no handoff, since this is no copy as it was published: {error}",
        )
    return {"id": manifest.id, "digest": manifest.digest, "copy": copy.name}, None


def circumstances(device: object, **records: Mapping[str, Any] | None) -> dict[str, Any]:
    """Date in UTC, versions and device; and which models stood beside, by their identities.

    Args:
        device: that the model ran on.
        records: identities of the reference model and of the records that were given; None = not
            given.
    """
    versions = {"mpu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    beside = {
        what: {key: one.get(key) for key in ("name", "digest")}
        for what, one in records.items()
        if one is not None
    }
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions,
        "device": str(device),
        **beside,
    }
