"""`mpu aggregate`: take the clients' updates back into the model (server)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.archives import unpacked
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.next_steps import after_aggregate
from mpu_cli.cli.options import (
    SECRET,
    Config,
    DryRun,
    Force,
    Json,
    ShardSize,
    choice,
    estimate_facts,
    server_words,
    use_one_thread,
)
from mpu_cli.cli.output import Output, facts

if TYPE_CHECKING:
    from mpu_cli.server.aggregation.aggregate import AggregateResult

GUIDE = Guide(
    "server",
    "Take the clients' updates back into the model.",
    ("mpu aggregate to-server --secret server --model model --out model-next",),
)


def aggregate(
    context: typer.Context,
    updates: Annotated[
        list[Path],
        typer.Argument(
            help="Updates that clients sent back: directories or tar files.", metavar="UPDATE…"
        ),
    ],
    secret: Annotated[
        Path, typer.Option("--secret", envvar=SECRET, help="The lineage's secret directory.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="The model to update: the head of the lineage.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory for the new model.")],
    server_lr: Annotated[
        float, typer.Option(help="η: how much of the aggregated update to apply.")
    ] = 1.0,
    missing: Annotated[
        str, typer.Option(help="If copies are missing: refuse, or reweight (noise is left).")
    ] = "refuse",
    min_agreement: Annotated[
        float, typer.Option(help="Least cosine between the copies' changes.")
    ] = 0.15,
    max_relative_norm: Annotated[
        float, typer.Option(help="Largest norm of the update, over the model's.")
    ] = 0.5,
    fork: Annotated[
        bool, typer.Option("--fork", help="Work on a model that a newer accepted one has replaced.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    max_shard_size: ShardSize = "50GB",
    disclose: Annotated[
        bool, typer.Option("--disclose", help="Say in the model card how the copies were made.")
    ] = False,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Take updates back: undo the reparameterizations, cancel the noise, add the result to the model.

    The result is a candidate: it becomes the lineage's head when perturb or aggregate is used on
    it. Several candidates may be made of one update, for instance with another --server-lr.
    """
    output = Output(context, as_json=json)
    from mpu_cli.checkpoint.writer import parse_size

    choice("--missing", missing, ("refuse", "reweight"))
    choice("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.server.aggregation.aggregate import aggregate as run
    from mpu_cli.server.aggregation.settings import AggregateSettings

    use_one_thread()

    if dry_run:
        from mpu_cli.server.aggregation.estimate import estimate_aggregate

        needs = estimate_aggregate(locate(model).path, dtype)
        output.result(needs, *server_words(needs, "the new model"), facts(estimate_facts(needs)))
        return
    settings = AggregateSettings(
        server_lr,
        missing,
        min_agreement,
        max_relative_norm,
        fork,
        dtype,
        parse_size(max_shard_size),
        disclose,
    )
    with unpacked(output, *updates) as places, output.progress("reading the model") as progress:
        result = run(places, secret, locate(model), out, settings, force=force, progress=progress)
    for text in _warnings(result, settings.dtype):
        output.warn(text)
    data = _data(result, out, settings.dtype)
    rows = {
        "updates": (
            f"{len(updates)}, {sum(len(draw.deltas) for draw in result.updates.draws)} copies"
        )
    }
    if result.changed is not None:
        agreement = ", ".join(
            "not comparable" if value is None else f"{value:.3f}" for value in result.agreement
        )
        rows |= {
            "agreement": agreement,
            "relative norm": f"{result.changed.relative_norm:.4g} of the model's",
            "stored as": (
                f"{result.changed.dtype}, cosine {result.changed.cosine:.4f} with the exact update"
            ),
        }
    rows |= {
        "staleness": f"{result.updates.staleness} models since the oldest handoff",
        "digest": result.model.digest,
    }
    output.result(
        data,
        facts(rows),
        "",
        f"model {out}  (a candidate; using it in perturb or aggregate accepts it)",
        f"keep  {secret}",
        *after_aggregate(out, secret, result.base_source, has_base=result.has_base),
        brief=f"model {out}",
    )


def _warnings(result: AggregateResult, asked_dtype: str) -> list[str]:
    lines = [*result.remarks]
    if result.test_secret:
        lines.append("this secret was prepared by a test (origin: test): it hides nothing")
    if result.changed is None:
        lines.append(
            "an interrupted run had already written this model; its record is now committed"
        )
    if result.unchanged:
        lines.append(
            "the update changes nothing: the result is the model itself, and the lineage stays as"
            " it is"
        )
    for draw in result.updates.draws:
        if draw.missing:
            left = draw.residual * draw.record.kappa
            order = 1 if left or draw.record.offset else len(draw.deltas)
            lines.append(
                f"{draw.missing} of {draw.record.size} copies are missing: noise of {left:.3g} of"
                f" the {draw.record.relative_to} no longer cancels, and the update's error is of"
                f" order {order} in the noise"
            )
    if (
        asked_dtype == "auto"
        and result.changed
        and result.changed.dtype == "float32"
        and result.source_dtype != "F32"
    ):
        lines.append(
            "stored as float32: in the model's own dtype rounding would have lost too much of the"
            " update"
        )
    return lines


def _data(result: AggregateResult, out: Path, asked_dtype: str) -> dict[str, Any]:
    return {
        "model": str(out),
        "digest": result.model.digest,
        "parent": result.model.parent,
        "dtype": result.changed.dtype if result.changed else None,
        "cosine": result.changed.cosine if result.changed else None,
        "relative_norm": result.changed.relative_norm if result.changed else None,
        "agreement": list(result.agreement),
        "staleness": result.updates.staleness,
        "missing": sum(draw.missing for draw in result.updates.draws),
        "unchanged": result.unchanged,
        "completed": result.changed is None,
        "warnings": _warnings(result, asked_dtype),
    }
