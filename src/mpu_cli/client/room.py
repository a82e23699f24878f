"""Whether the disks have room for an update and the checkpoints on the way, asked before a model is loaded."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.tensors import is_frozen
from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.space import require_space, same_disk
from mpu_cli.client.adapters import is_adapter
from mpu_cli.client.estimate import ModelToTrain, estimate
from mpu_cli.client.handoff import OpenHandoff
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.modeling.processes import this_process


def require_room_to_train(
    subject: ModelToTrain,
    recipe: Recipe,
    delta_dtype: str,
    out: Path,
    kept: WorkDirectory,
    model_bytes: int | None = None,
) -> None:
    """Raise OutputError if what `unlearn` writes does not fit.

    The result, one trained copy, two checkpoints.

    The result is a model of `model_bytes`, or an update where that is None.
    """
    needs = estimate(
        subject,
        recipe.settings,
        delta_dtype,
        lora=recipe.lora,
        processes=this_process().size,
        checkpoints=kept.wants_checkpoints,
    )
    name, result = (
        ("an update", needs["disk_bytes"]) if model_bytes is None else ("a model", model_bytes)
    )
    result, checkpoints = result + needs["temporary_disk_bytes"], needs["checkpoint_disk_bytes"]
    if same_disk(out, kept.path):
        require_space(
            out,
            result + checkpoints,
            f"{name} with the checkpoints on the way" if checkpoints else name,
        )
        return
    require_space(out, result, name)
    # Finished copies wait there for the others; on one disk they are links.
    copies = needs["disk_bytes"] if subject.copies > 1 and model_bytes is None else 0
    require_space(
        kept.path,
        copies + checkpoints,
        "the work directory with two checkpoints" if checkpoints else "the work directory",
    )


def require_room_for_difference(
    opened: OpenHandoff, trained: Path, dtype: str, out: Path, *, merge: bool
) -> None:
    """Raise OutputError if the update from these trained copies cannot fit, should every trainable entry have changed."""
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
