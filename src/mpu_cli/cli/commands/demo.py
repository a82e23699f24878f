"""`mpu demo`: one round on an embedded model and data (newcomer)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mpu_cli.cli.flags import Job, command
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_demo
from mpu_cli.cli.output import Output, table, unknown
from mpu_cli.documentation import page
from mpu_cli.option import option

GUIDE = Guide(
    "newcomer",
    "Run one round on an embedded model (about two minutes).",
    (
        "mpu demo",
        "mpu demo --keep demo    # keep all files, to look at them",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions(Job):
    """What `mpu demo` was asked to do."""

    keep: Path | None = option(
        None, "Keep all files in this new directory.", panel="Output", metavar="DIR"
    )


@command()
def demo(job: DemoOptions, output: Output) -> None:
    """Run one round between a model owner and a data owner: about two minutes on a laptop's CPU.

    A tiny Llama that knows 20 invented people unlearns two of them. Both parties are real mpu
    processes that cannot read each other's directory.
    """
    keep = job.keep
    from mpu_cli.checkpoint.staging import refuse_existing
    from mpu_cli.demo.demonstration import KAPPA, OFFSET, run_demo

    if keep is not None:
        refuse_existing(keep, force=None)
    with output.progress() as progress:

        def print_line(line: str) -> None:
            output.note(line)
            progress(" ".join(line.split()[:4]), 0, 0)

        result = run_demo(print_line, keep)
    data = {
        "answer_probability": {
            name: {"forget": pair[0], "retain": pair[1]}
            for name, pair in (
                ("before", result.before),
                ("noise_free", result.noise_free),
                ("mpu", result.mpu),
            )
        },
        "exposure": {
            "offset_0": result.exposure,
            f"offset_{OFFSET:g}": result.exposure_with_offset,
        },
        "agreement": result.agreement,
        "directory": str(keep) if keep else None,
    }
    rows = [
        (name, f"{forget:.4f}", f"{retain:.4f}")
        for name, (forget, retain) in (
            ("before", result.before),
            ("noise-free (both parties' secrets in one place)", result.noise_free),
            (f"MPU (three copies, noise {KAPPA:g} of the task vector)", result.mpu),
        )
    ]
    left = [
        (f"offset {offset:g}", unknown(shown["one_copy"]), unknown(shown["all_copies"]))
        for offset, shown in ((0.0, result.exposure), (OFFSET, result.exposure_with_offset))
    ]
    output.result(
        data,
        "",
        table("mean answer probability", "forget", "retain", rows=rows),
        "Both results agree (within .012 over three draws of the noise). The default noise of"
        " perturb, 0.1, is 2 to 4 % of these small weights: it does not cancel completely, and the"
        " model forgets less.",
        "",
        table(
            "share of the task vector still unknown (upper bound)",
            "to a holder of one copy",
            "to a holder of all copies",
            rows=left,
        ),
        "An offset hides something even from a client that holds all copies, but adds an error of"
        " first order in the offset.",
        "",
        "try next",
        *after_demo(keep),
        "read next",
        f"  {page('threat-model')}   what is hidden, and what is not",
        f"  {page('first-hour')}   a whole round with your own model, step by step",
    )
