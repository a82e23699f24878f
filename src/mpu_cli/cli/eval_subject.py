"""What `mpu eval` measures.

A model where it lies, or a copy that is changed for the time of the measurement.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, decode
from mpu_cli.bundle.read import manifest_bytes
from mpu_cli.checkpoint.locate import Located, locate
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError


@contextmanager
def subject(
    options: Mapping[str, Any], output: Output
) -> Iterator[tuple[Located, Mapping[str, str] | None]]:
    """The model, by the command's options.

    With --handoff MODEL is an update, and a copy with it lies in a temporary directory.

    With it comes what a record says of handoff, copy and update; None of a model that lies where it
    is.

    Both may be tar files.

    Raises:
        UsageError: --copy without --handoff, or --handoff in several processes.
        MpuError: see `locate` and `write_changed_copy`.
    """
    handoff, copy = options["handoff"], options["copy"]
    if handoff is None:
        if copy is not None:
            raise UsageError(
                "--copy is about a copy of a handoff",
                "give --handoff DIR too, and the update as MODEL",
            )
        yield locate(options["model"]), None
        return
    from mpu_cli.client.changed_copy import write_changed_copy
    from mpu_cli.modeling.processes import this_process

    if this_process().size > 1:
        raise UsageError(
            "--handoff: every process would write the changed copy",
            "start mpu eval without torchrun",
        )
    number = 1 if copy is None else copy
    with tempfile.TemporaryDirectory(prefix="mpu-eval-") as folder:
        with unpacked(output, handoff, Path(options["model"])) as [published, update]:
            write_changed_copy(published, update, number, Path(folder))
            origin = _origin(published, update, f"copy-{number}")
        yield (
            Located(Path(folder), f"{Path(options['model']).resolve().name}, copy-{number}"),
            origin,
        )


def _origin(handoff: Path, update: Path, copy: str) -> dict[str, str]:
    """For two directories that were verified."""
    published, changed = (
        decode(manifest_bytes(path), path / MANIFEST) for path in (handoff, update)
    )
    assert isinstance(published, HandoffManifest)
    return {"id": published.id, "digest": published.digest, "copy": copy, "update": changed.digest}
