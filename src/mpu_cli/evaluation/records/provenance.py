"""Which model was measured, when, and with which versions: what makes a record evidence.

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
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest
from mpu_cli.bundle.read import open_manifest
from mpu_cli.checkpoint.digest import file_digest, model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadBundleError, MpuError

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "rouge-score")
_NAMES = ("name", "digest")


def identity(
    model: Path, name: str | None, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """The name and the digest of a model directory, which `mpu inspect` shows too."""
    return {
        "name": name or model.resolve().name,
        "digest": model_digest(open_checkpoint(model), progress),
    }


def published_as(model: Path) -> tuple[dict[str, str] | None, str | None]:
    """The handoff of a model that is a published copy inside its handoff, or None; and a warning.

    The bytes of all files that the handoff lists for the copy are checked. If they differ, or the
    manifest cannot be read, the model does not count as a published copy and the warning says why.

    Returns:
        The handoff's id and digest and the copy's name, or None; the warning, or None.
    """
    model = model.resolve()
    place = model.parent / MANIFEST
    if not place.is_file():
        return None, None
    try:
        manifest = open_manifest(model.parent).manifest
        if not isinstance(manifest, HandoffManifest):
            return None, None
        copy = next((copy for copy in manifest.copies if copy.name == model.name), None)
        if copy is None:
            raise BadBundleError(f"{place}: lists no {model.name}")
        for name, entry in copy.files.items():
            if not (model / name).is_file() or file_digest(model / name) != entry.sha256:
                raise BadBundleError(f"{model / name}: differs from what {MANIFEST} lists")
    except (MpuError, OSError) as error:
        return None, f"the record names no handoff, since the model is no published copy: {error}"
    return {"id": manifest.id, "digest": manifest.digest, "copy": copy.name}, None


def circumstances(device: object, **others: Mapping[str, Any] | None) -> dict[str, Any]:
    """The date in UTC, the versions and the device, and the identities of the other models.

    Args:
        device: the device that the model ran on.
        others: identities of the reference model and of the given records' models; None = not
            given.
    """
    versions = {"mpu": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": versions,
        "device": str(device),
        **{
            what: {key: other.get(key) for key in _NAMES}
            for what, other in others.items()
            if other is not None
        },
    }
