"""What `mpu unlearn --dry-run` prints: memory, disk, and the time of the given rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.cli.output import Output
from mpu_cli.cli.unlearn_job import plan
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.cli.unlearn_options import UnlearnOptions
    from mpu_cli.client.duration import RowSizes
    from mpu_cli.training.settings import TrainingSettings


def resource_estimate(job: UnlearnOptions, output: Output, place: Path) -> dict[str, int]:
    """What `--dry-run` prints; times only for rows that were given."""
    from mpu_cli.client import duration
    from mpu_cli.client.estimate import estimate_unlearn
    from mpu_cli.modeling.processes import this_process
    from mpu_cli.training.distributed import refuse_unsharded

    chosen = plan(job, output, place)
    method, settings = chosen.method, chosen.settings
    refuse_unsharded(settings)
    # The value of a parameter without a default does not matter here.
    named = {assignment.partition("=")[0].strip() for assignment in chosen.assignments}
    required = [
        f"{p.name}=1" for p in method.parameters if p.default is None and p.name not in named
    ]
    inputs = method.inputs_with(method.parse([*chosen.assignments, *required]))
    sizes = _row_sizes(job, settings, place) if job.forget is not None else None
    passes = 1 + sum(word in inputs for word in ("retain", "alternate"))
    estimate = estimate_unlearn(
        place,
        settings,
        job.delta_dtype,
        lora=job.lora,
        processes=job.processes or this_process().size,
        passes=passes,
        checkpoints=bool(job.checkpoints.steps or job.checkpoints.seconds),
        longest=sizes and sizes.longest,
    )
    if job.copy is not None:  # only this copy is trained and written here
        copies = estimate["copies"]
        for name in ("disk_bytes", "sent_bytes"):
            estimate[name] //= copies
        estimate["copies"] = 1
    if sizes is None:
        return estimate
    steps = settings.total_steps(sizes.rows)
    operations = duration.products_of_a_step(settings, estimate["parameters"], sizes.mean, passes)
    speed = duration.measured_speed(settings) * estimate["processes"]
    seconds = duration.seconds_in_all(steps, estimate["copies"], operations, speed)
    return estimate | {
        "rows": sizes.rows,
        "longest_row_tokens": sizes.longest,
        "steps": steps,
        "seconds": round(seconds),
    }


def _row_sizes(job: UnlearnOptions, settings: TrainingSettings, place: Path) -> RowSizes:
    """The sizes of the given rows in tokens of the model's tokenizer."""
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.client.duration import RowSizes
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.training_rows import RowEncoder
    from mpu_cli.data.mapping import for_retain
    from mpu_cli.data.rows import read_rows
    from mpu_cli.data.source import find_data

    if place.is_file() or not any(place.glob("**/tokenizer*")):
        raise UsageError(
            f"--forget with --dry-run: {place} has no tokenizer to count tokens with",
            "leave --forget out",
        )
    assert job.forget is not None
    forget = find_data(job.forget)
    retain = find_data(job.retain) if job.retain is not None else None
    mapping, delimiter = job.columns.mapping, job.columns.delimiter
    recipe = Recipe.of_files(
        job.method, {}, settings, forget, retain, mapping=mapping, prompting=job.prompting
    )
    encoder = RowEncoder(place / "copy-1" if is_bundle(place) else place, recipe)
    forget_rows = read_rows(forget, mapping, delimiter=delimiter)
    if job.cover is not None:
        forget_rows += read_rows(find_data(job.cover), mapping, delimiter=delimiter)
    retain_rows = (
        read_rows(retain, for_retain(mapping), delimiter=delimiter) if retain is not None else None
    )
    rows = encoder.training_rows(forget_rows, retain_rows)
    return RowSizes.of(rows.forget, rows.retain)
