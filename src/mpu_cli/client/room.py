"""Check that the disks have room, before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.tensors import is_frozen
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.space import require_space, same_disk
from mpu_cli.client.adapters import is_adapter
from mpu_cli.client.estimate import ModelToTrain, estimate
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.modeling.processes import this_process


def require_room_to_train(
    model: ModelToTrain, job: UnlearnJob, out: Path, model_bytes: int | None = None
) -> None:
    """Check, in the first process, that the result, one trained copy and two checkpoints fit.

    Args:
        model: what is trained.
        job: what is done to it.
        out: where the result goes.
        model_bytes: of the resulting model; None = the result is an update.

    Raises:
        OutputError: they do not fit.
    """
    if not this_process().is_first:
        return
    work = WorkDirectory(out, job.keeping)
    needed = estimate(
        model,
        job.recipe.settings,
        job.delta_dtype,
        lora=job.recipe.lora,
        processes=this_process().size,
        checkpoints=work.wants_checkpoints,
    )
    name, result = (
        ("an update", needed["disk_bytes"]) if model_bytes is None else ("a model", model_bytes)
    )
    result, checkpoints = result + needed["temporary_disk_bytes"], needed["checkpoint_disk_bytes"]
    if same_disk(out, work.path):
        what = f"{name} with its checkpoints" if checkpoints else name
        require_space(out, result + checkpoints, what)
        return
    require_space(out, result, name)
    # Finished copies wait there for the others; on one disk they are links.
    copies = needed["disk_bytes"] if model.copies > 1 and model_bytes is None else 0
    require_space(
        work.path,
        copies + checkpoints,
        "the work directory with two checkpoints" if checkpoints else "the work directory",
    )


def require_room_for_difference(
    opened: OpenHandoff, trained: Path, dtype: str, out: Path, *, merge: bool
) -> None:
    """Raise OutputError unless the update from these copies fits even if every entry changed."""
    needed = 0
    for name, published in opened.copies.items():
        if is_adapter(trained / name) and not merge:
            needed += sum(path.stat().st_size for path in (trained / name).glob("adapter_*"))
        else:
            moving = (
                info.elements
                for info in published.tensors.values()
                if not is_frozen(info.name, opened.frozen)
            )
            needed += sum(moving) * BYTES_PER_ELEMENT[STORED_NAMES[dtype]]
    require_space(out, needed, f"an update of {len(opened.copies)} copies")
