"""`mpu unlearn`: unlearn on every copy of a handoff, or on a model (client)."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpu_cli.cli.options import Config, DryRun, Force, Json, ShardSize, choice, estimate_facts
from mpu_cli.cli.output import Output, facts, table
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.client.unlearn import Work


def unlearn(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A handoff (writes an update), or a model directory or Hub id (writes a model).")],
    out: Annotated[Path, typer.Option("--out", help="Directory to write.")],
    forget: Annotated[Path | None, typer.Option("--forget", help="Rows to forget: JSON or JSONL.")] = None,
    retain: Annotated[Path | None, typer.Option("--retain", help="Rows to keep: JSON or JSONL.")] = None,
    method: Annotated[str, typer.Option(help="GradAscent, GradDiff or NPO.")] = "NPO",
    set_: Annotated[list[str] | None, typer.Option("--set", help="A method's own parameter, name=value.", metavar="NAME=VALUE")] = None,
    optimizer: Annotated[str, typer.Option(help="adamw or adafactor.")] = "adamw",
    epochs: Annotated[int, typer.Option(help="Passes over the forget set.")] = 5,
    learning_rate: Annotated[float, typer.Option(help="Constant learning rate.")] = 1e-5,
    batch_size: Annotated[int, typer.Option(help="Forget rows in one forward pass.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Forward passes in one step.")] = 1,
    weight_decay: Annotated[float, typer.Option(help="Decoupled weight decay.")] = 0.0,
    max_grad_norm: Annotated[float, typer.Option(help="Gradient clipping; 0 for none.")] = 1.0,
    max_length: Annotated[int, typer.Option(help="Tokens of a row that are kept.")] = 512,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 (autocast; weights stay float32).")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    keep_dropout: Annotated[bool, typer.Option("--keep-dropout", help="Leave the model's dropout on (copies then differ).")] = False,
    seed: Annotated[int, typer.Option(help="Orders the data; the same for every copy.")] = 0,
    delta_dtype: Annotated[str, typer.Option(help="float32 or bfloat16: how the change is stored.")] = "float32",
    dtype: Annotated[str, typer.Option(help="For a model directory: auto, float32, bfloat16 or float16.")] = "auto",
    copy: Annotated[int | None, typer.Option("--copy", help="Train copy K only and write OUT/copy-K.", metavar="K")] = None,
    finish: Annotated[bool, typer.Option("--finish", help="Check all copies made with --copy, write the update.")] = False,
    max_shard_size: ShardSize = "50GB",
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Unlearn the forget set on every copy alike; the update holds nothing but how the copies changed.

    \b
    mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl --out to-server
    mpu unlearn to-client … --copy 1 --out to-server      one copy (make -j, job arrays)
    mpu unlearn to-client --finish --out to-server         then complete the update
    """
    output = Output(context, as_json=json)
    from mpu_cli.bundle.read import is_bundle

    choice("--delta-dtype", delta_dtype, ("float32", "bfloat16"))
    choice("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    bundle = is_bundle(Path(source))
    if not bundle and (copy is not None or finish):
        raise UsageError("--copy and --finish belong to a handoff", f"{source} is not a handoff")
    from mpu_cli.checkpoint.locate import locate

    place = Path(source) if bundle else locate(source).path
    if finish:
        from mpu_cli.client.unlearn import finish_update

        update = finish_update(place, out)
        output.result({"update": str(out), "digest": update.digest, "handoff": update.handoff_id}, *_ending(out))
        return
    if dry_run:
        from mpu_cli.client.estimate import estimate_unlearn

        needs = estimate_unlearn(place, delta_dtype, optimizer)
        output.result(needs, facts(estimate_facts(needs)))
        return
    if forget is None:
        raise UsageError("--forget is needed", "give the rows to forget, JSON or JSONL")
    training = {
        "epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation, "optimizer": optimizer, "weight_decay": weight_decay,
        "max_grad_norm": max_grad_norm, "max_length": max_length, "max_steps": max_steps, "precision": precision,
        "device": device, "seed": seed, "keep_dropout": keep_dropout,
    }  # fmt: skip
    from mpu_cli.checkpoint.staging import refuse_nesting

    refuse_nesting(out, forget, *([retain] if retain else []))
    work = _work(forget, retain, method, set_ or [], training, delta_dtype, max_shard_size)
    from mpu_cli.client import unlearn as client

    with output.training() as on_step:
        if not bundle:
            reports = {place.name: client.unlearn_model(place, out, work, on_step, dtype=dtype, force=force)}
        elif copy is not None:
            reports = {f"copy-{copy}": client.unlearn_one_copy(place, out, copy, work, on_step, force=force)}
        else:
            _, reports = client.unlearn_handoff(place, out, work, on_step, force=force)
    rows = [(name, str(r.steps), f"{r.seconds:.1f}", f"{r.first_loss:.4f}", f"{r.last_loss:.4f}") for name, r in reports.items()]
    data: dict[str, Any] = {"out": str(out), "copies": {name: asdict(report) for name, report in reports.items()}}
    body = [table("trained", "steps", "seconds", "first loss", "last loss", rows=rows)]
    if not bundle:
        output.result(data, *body, "", f"model {out}")
    elif copy is not None:
        output.result(data, *body, "", f"next  the other copies, then: mpu unlearn {source} --finish --out {out}")
    else:
        output.result(data, *body, *_ending(out))


def _work(
    forget: Path, retain: Path | None, method: str, assignments: list[str], training: dict[str, Any], delta_dtype: str, shard_size: str
) -> Work:  # fmt: skip
    from mpu_cli.checkpoint.writer import parse_size
    from mpu_cli.client import methods
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.unlearn import Work
    from mpu_cli.data.rows import read_rows
    from mpu_cli.training.settings import TrainingSettings

    settings = TrainingSettings(**training)
    chosen = methods.get(method)
    parameters = chosen.parse(assignments)
    chosen.check_retain(parameters, has_retain=retain is not None)
    forget_rows = read_rows(forget)
    retain_rows = read_rows(retain) if retain is not None else None
    recipe = Recipe.of_files(chosen.name, parameters, settings, forget, retain)
    return Work(forget_rows, retain_rows, recipe, delta_dtype, parse_size(shard_size))


def _ending(out: Path) -> list[str]:
    return [
        "",
        f"send  {out}  back to the server (it holds no text; what it still tells is in docs/threat-model.md)",
        "keep  the forget and retain files",
        f"next  on the server's side: mpu aggregate {out.name} --secret SECRET --model MODEL --out MODEL-NEXT",
    ]
