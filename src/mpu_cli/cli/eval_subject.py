"""The model that `mpu eval` measures: a given model, or a copy as an update changes it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, decode
from mpu_cli.bundle.read import is_bundle, manifest_bytes
from mpu_cli.checkpoint.locate import Located, locate
from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.eval_options import EvalOptions
from mpu_cli.cli.output import Output
from mpu_cli.errors import BadBundleError, UsageError


@contextmanager
def model_under_test(
    job: EvalOptions, model: str, output: Output
) -> Iterator[tuple[Located, Mapping[str, str] | None]]:
    """The model, and what a record says about its handoff, copy and update (None without one).

    With `--handoff` MODEL is an update, and the changed copy lies in a temporary directory. Both
    may be tar files.

    Raises:
        UsageError: `--copy` without `--handoff`, or `--handoff` in several processes.
        MpuError: see `locate` and `write_changed_copy`.
    """
    if job.handoff is None:
        if job.copy is not None:
            raise UsageError(
                "--copy is about a copy of a handoff",
                "give --handoff DIR too, and the update as MODEL",
            )
        _refuse_cut(Path(model).parent, model)
        yield locate(model), None
        return
    from mpu_cli.client.changed_copy import write_changed_copy
    from mpu_cli.modeling.processes import this_process

    if this_process().size > 1:
        raise UsageError(
            "--handoff: every process would write the changed copy",
            "start mpu eval without torchrun",
        )
    number = 1 if job.copy is None else job.copy
    with tempfile.TemporaryDirectory(prefix="mpu-eval-") as folder:
        with unpacked(output, job.handoff, Path(model)) as [published, update]:
            _refuse_cut(published, str(job.handoff))
            with output.progress("checking the handoff and the update") as progress:
                write_changed_copy(published, update, number, Path(folder), progress)
            origin = _origin(published, update, f"copy-{number}")
        yield Located(Path(folder), f"{Path(model).resolve().name}, copy-{number}"), origin


def _refuse_cut(handoff: Path, shown: str) -> None:
    """Refuse the copies of a cut handoff, and what an update makes of them.

    Raises:
        UsageError: `handoff` is one.
    """
    if not is_bundle(handoff):
        return
    try:
        manifest = decode(manifest_bytes(handoff), handoff / MANIFEST)
    except BadBundleError:  # an altered handoff is not named in the record, either
        return
    if isinstance(manifest, HandoffManifest) and manifest.cut is not None:
        raise UsageError(
            f"{shown}: holds {manifest.cut.layers} of the model's {manifest.cut.of} layers, so it"
            " has no answers to measure",
            "mpu unlearn says how far the hidden states moved; the server can run mpu eval on the"
            " model that mpu aggregate writes",
        )


def _origin(handoff: Path, update: Path, copy: str) -> dict[str, str]:
    """What a record says of two directories that were verified."""
    published, changed = (
        decode(manifest_bytes(path), path / MANIFEST) for path in (handoff, update)
    )
    assert isinstance(published, HandoffManifest)
    return {"id": published.id, "digest": published.digest, "copy": copy, "update": changed.digest}
