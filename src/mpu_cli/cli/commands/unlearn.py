"""`mpu unlearn`: unlearn on every copy of a handoff, or on a model (client)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from mpu_cli.cli.archives import Pack, check_pack, unpacked, write_packs
from mpu_cli.cli.completion import methods, optimizers
from mpu_cli.cli.guide import Guide
from mpu_cli.cli.options import (
    AllowOverlap,
    Config,
    ContentParts,
    Delimiter,
    DryRun,
    Force,
    Json,
    MaxLength,
    ShardSize,
    SystemPrompt,
    TemplateDate,
    TemplateVar,
    choice,
    estimate_facts,
)
from mpu_cli.cli.output import Output, facts
from mpu_cli.cli.progress import OverCopies
from mpu_cli.errors import MpuError, UsageError

GUIDE = Guide(
    "client",
    "Unlearn the forget set on every copy, or on a model.",
    (
        "mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl --out to-server",
        "# one copy alone (make -j, job arrays); then 2 and 3, then --finish",
        "mpu unlearn to-client --forget forget.jsonl --retain retain.jsonl --copy 1 --out spread",
        "mpu unlearn to-client --finish --out spread",
        "# several processes train together",
        "torchrun --nproc-per-node 2 -m mpu_cli unlearn to-client \\\n    --forget forget.jsonl --retain retain.jsonl --out to-server-2",
    ),
)


def unlearn(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(
            help="A handoff or its tar file (writes an update), a model or Hub id (a model)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Directory to write.")] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget", help="Rows to forget: JSON, JSONL, CSV, Parquet, hf://datasets/…."
        ),
    ] = None,
    retain: Annotated[str | None, typer.Option("--retain", help="Rows to keep, likewise.")] = None,
    allow_overlap: AllowOverlap = False,
    refusals: Annotated[
        str | None, typer.Option("--refusals", help="Answers to give instead (DPO), one a line.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="Which column holds a field.", metavar="FIELD=COLUMN"),
    ] = None,
    delimiter: Delimiter = None,
    system_prompt: SystemPrompt = None,
    template_var: TemplateVar = None,
    template_date: TemplateDate = None,
    content_parts: ContentParts = False,
    max_length: MaxLength = None,
    overlap: Annotated[
        int | None,
        typer.Option(help="Tokens that two windows of a long text share. [default: an eighth]"),
    ] = None,
    pack: Annotated[
        bool, typer.Option("--packing", help="Put short texts together into blocks.")
    ] = False,
    join_texts: Annotated[
        bool,
        typer.Option(
            "--join-texts/--no-join-texts",
            help="Join all texts by blank lines, cut into chunks of --max-length.",
        ),
    ] = False,
    method: Annotated[
        str, typer.Option(help="See --list-methods.", autocompletion=methods)
    ] = "NPO",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A method's own parameter, name=value.", metavar="NAME=VALUE"),
    ] = None,
    list_methods: Annotated[
        bool,
        typer.Option(
            "--list-methods", help="Show every method with formula, parameters, source; stop."
        ),
    ] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="paper: the authors' settings for this method; options you give win."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help=(
                "What NPO, DPO, UnDIAL and KL compare with: round 1's handoff, or a model."
                " [default: the copy]"
            )
        ),
    ] = None,
    round_number: Annotated[
        int | None,
        typer.Option(
            "--round",
            help="Which round this is: rows go on where the last ended. [default: rows by handoff]",
        ),
    ] = None,
    order_per_copy: Annotated[
        bool,
        typer.Option(
            "--order-per-copy/--one-order",
            help="Each copy of a handoff sees rows in its own order.",
        ),
    ] = False,
    draws: Annotated[
        str,
        typer.Option(
            help="Retain rows and refusals: dealt (none twice before all came), or independent."
        ),
    ] = "dealt",
    redraw_refusals: Annotated[
        bool, typer.Option("--redraw-refusals/--one-refusal", help="Other refusals in each epoch.")
    ] = False,
    train_embeddings: Annotated[
        bool,
        typer.Option(
            "--train-embeddings/--no-train-embeddings",
            help="Train embeddings: their rows spell out your tokens.",
        ),
    ] = False,
    optimizer: Annotated[
        str,
        typer.Option(
            help="adafactor, adamw (the paper's), adam-mini, muon or sgd.",
            autocompletion=optimizers,
        ),
    ] = "adafactor",
    epochs: Annotated[int, typer.Option(help="Passes over the forget set.")] = 5,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="The highest of the run. [default: by the model's size, and said]"),
    ] = None,
    lr_scheduler: Annotated[
        str, typer.Option(help="constant, linear or cosine (both down to 0).")
    ] = "constant",
    warmup_steps: Annotated[
        int, typer.Option(help="First steps, over which the learning rate rises.")
    ] = 0,
    warmup_ratio: Annotated[float, typer.Option(help="The same as a share of all steps.")] = 0.0,
    batch_size: Annotated[
        int, typer.Option(help="Forget rows in one forward pass, over all processes.")
    ] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Forward passes in one step.")] = 1,
    group_by_length: Annotated[
        bool, typer.Option("--group-by-length", help="Rows of like length in one batch.")
    ] = False,
    partial_step: Annotated[
        str,
        typer.Option(help="An epoch's last step with fewer passes: their mean, or their share."),
    ] = "mean",
    weight_decay: Annotated[
        float, typer.Option(help="Decoupled weight decay, not on norms and biases.")
    ] = 0.0,
    decay_all: Annotated[
        bool, typer.Option("--decay-all/--no-decay-all", help="On norms and biases too.")
    ] = False,
    max_grad_norm: Annotated[float, typer.Option(help="Gradient clipping; 0 for none.")] = 1.0,
    max_steps: Annotated[int | None, typer.Option(help="Stop after so many steps.")] = None,
    stop_forget_below: Annotated[
        float | None,
        typer.Option(help="Stop once the forget rows' answer probability is this low."),
    ] = None,
    stop_retain_below: Annotated[
        float | None,
        typer.Option(help="Stop once the retain rows' answer probability is this low."),
    ] = None,
    precision: Annotated[
        str,
        typer.Option(help="float32, bfloat16 (autocast; weights stay float32) or pure-bfloat16."),
    ] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, about a third more time.")
    ] = False,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="Under torchrun: shard the model over the processes.")
    ] = False,
    keep_dropout: Annotated[
        bool,
        typer.Option("--keep-dropout", help="Leave the model's dropout on (copies then differ)."),
    ] = False,
    lora_rank: Annotated[
        int | None, typer.Option(help="Train a LoRA adapter of this rank instead of the weights.")
    ] = None,
    lora_alpha: Annotated[
        float | None,
        typer.Option(help="Its α; B A is scaled by α / rank. [default: twice the rank]"),
    ] = None,
    lora_targets: Annotated[
        str, typer.Option(help="Where: roles (q,k,v,gate,up,o,down) or module names.")
    ] = "q,k,v,gate,up",
    seed: Annotated[
        int, typer.Option(help="Orders the data, draws an adapter's A; the same for every copy.")
    ] = 0,
    delta_dtype: Annotated[
        str, typer.Option(help="float32 or bfloat16: how the change is stored.")
    ] = "float32",
    dtype: Annotated[
        str, typer.Option(help="For a model directory: auto, float32, bfloat16 or float16.")
    ] = "auto",
    copy: Annotated[
        int | None,
        typer.Option("--copy", help="Train copy K only and write OUT/copy-K.", metavar="K"),
    ] = None,
    finish: Annotated[
        bool, typer.Option("--finish", help="Check all copies made with --copy, write the update.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on where an interrupted run of the same command left off."
        ),
    ] = False,
    save_steps: Annotated[
        int | None, typer.Option(min=1, help="Write a checkpoint every so many steps.")
    ] = None,
    save_seconds: Annotated[
        float, typer.Option(min=0, help="Write one after so many seconds, too; 0 for never.")
    ] = 900.0,
    work: Annotated[
        Path | None,
        typer.Option("--work", help="Where checkpoints go. [default: beside OUT, hidden, private]"),
    ] = None,
    log_dir: Annotated[
        Path | None, typer.Option("--log-dir", help="Write TensorBoard event files here.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="For --dry-run: as if torchrun had started so many.")
    ] = None,
    max_shard_size: ShardSize = "50GB",
    pack_to: Pack = None,
    dry_run: DryRun = False,
    force: Force = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Unlearn the forget set on every copy alike.

    The update holds nothing but how the copies changed.
    """
    from mpu_cli.modeling.processes import check_launch, leave, leave_allocation, this_process

    check_launch()
    here = this_process()
    output = Output(context, as_json=json, silent=not here.is_first)
    if (alone := leave_allocation()) is not None:
        output.warn(alone)
    try:
        with _directories(context, output) as found:
            _run(context, output, found, out)
    except MpuError as error:
        # The first process has the same to say, and says it.
        if here.is_first or os.environ.get("MPU_DEBUG") == "1":
            raise
        raise typer.Exit(error.exit_code) from error
    finally:
        leave()


@contextmanager
def _directories(context: typer.Context, output: Output) -> Iterator[str | None]:
    """SOURCE, and --reference among the options, as directories: handoffs may come as tar files."""
    from mpu_cli.checkpoint.recognise import is_tar
    from mpu_cli.modeling.processes import this_process

    options: dict[str, Any] = context.params
    tars = {
        name: Path(options[name])
        for name in ("source", "reference")
        if options[name] and is_tar(Path(options[name]))
    }
    if tars and this_process().size > 1:
        each = next(iter(tars.values()))
        remedy = f"unpack it first: tar -xf {quote(str(each))}"
        raise UsageError(
            f"{each}: several processes train on one directory, not on a tar file", remedy
        )
    with unpacked(output, *tars.values(), work=options["work"]) as places:
        found = options | dict(zip(tars, map(str, places), strict=True))
        options["reference"] = found["reference"]
        yield found["source"]


def _run(context: typer.Context, output: Output, source: str | None, out: Path | None) -> None:
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.cli.next_steps import after_update

    options: dict[str, Any] = context.params
    if options["list_methods"]:
        _list_methods(output)
        return
    if source is None:
        raise UsageError(
            "SOURCE is missing",
            "give a handoff, a model directory or a Hub id; see mpu unlearn --help",
        )
    choice("--delta-dtype", options["delta_dtype"], ("float32", "bfloat16"))
    choice("--dtype", options["dtype"], ("auto", "float32", "bfloat16", "float16"))
    copy, finish = options["copy"], options["finish"]
    bundle = is_bundle(Path(source))
    if not bundle and (copy is not None or finish):
        raise UsageError("--copy and --finish belong to a handoff", f"{source} is not a handoff")
    if options["pack_to"] is not None and (not bundle or copy is not None):
        what = (
            f"{source} is not a handoff"
            if not bundle
            else "give it with --finish, when all copies are made"
        )
        raise UsageError("--pack is for a whole update", what)
    if finish and copy is not None:
        raise UsageError(
            "--copy and --finish: give one of them", "--finish comes when all copies are made"
        )
    place = (
        Path(source)
        if bundle or (options["dry_run"] and Path(source).is_file())
        else locate(source).path
    )
    if options["dry_run"]:
        from mpu_cli.cli.unlearn_job import resource_estimate, tell_rate
        from mpu_cli.cli.unlearn_view import dry_run_words

        needs = resource_estimate(context, output, place)
        tell_rate(output, options, place)
        output.result(
            needs,
            *dry_run_words(needs, options["forget"] is not None),
            facts(estimate_facts(needs)),
        )
        return
    if out is None:
        raise UsageError("--out is missing", "give the directory to write")
    packs = check_pack(options["pack_to"], [out], [place], force=options["force"])
    if finish:
        from mpu_cli.client.unlearn import finish_update

        update = finish_update(place, out)
        write_packs(output, packs, force=options["force"])
        data = {
            "update": str(out),
            "digest": update.digest,
            "handoff": update.handoff_id,
            "packed": [str(file) for file in packs.values()],
        }
        told = after_update(out, Path(options["source"]), options, packs.get(out))
        output.result(data, *told, brief=f"update {packs.get(out, out)}")
        return
    _train(context, output, place, out, packs, bundle=bundle)


def _train(
    context: typer.Context,
    output: Output,
    place: Path,
    out: Path,
    packs: dict[Path, Path],
    *,
    bundle: bool,
) -> None:
    options: dict[str, Any] = context.params
    copy, force = options["copy"], options["force"]
    names = [place.name] if not bundle else [f"copy-{copy}"] if copy is not None else _copies(place)
    with output.progress(
        "reading rows"
    ) as progress:  # before the imports, which take seconds themselves
        from mpu_cli.cli.unlearn_job import build_job, tell_rate
        from mpu_cli.client import unlearn as client

        work = build_job(context, output, place)
        over = OverCopies(progress, names, output.note if output.verbose else None)
        work, on_step = replace(work, doing=over.doing), over.on_step
        if not bundle:
            reports = {
                place.name: client.unlearn_model(
                    place, out, work, on_step, dtype=options["dtype"], force=force
                )
            }
        elif copy is not None:
            reports = {
                f"copy-{copy}": client.unlearn_one_copy(
                    place, out, copy, work, on_step, force=force
                )
            }
        else:
            _, reports = client.unlearn_handoff(place, out, work, on_step, force=force)
    from mpu_cli.cli.next_steps import after_copy, after_model, after_update
    from mpu_cli.cli.unlearn_view import trained
    from mpu_cli.cli.verdict import verdict
    from mpu_cli.modeling.processes import this_process

    if this_process().is_first:
        write_packs(output, packs, force=force)
    data: dict[str, Any] = {
        "out": str(out),
        "copies": {name: asdict(report) for name, report in reports.items()},
        "packed": [str(file) for file in packs.values()],
    }
    tell_rate(output, options, place)
    body = trained(reports)
    found = verdict(reports)
    if found is not None:
        data["verdict"] = found.content
        body += ["", found.words]
        for warning in found.warnings:
            output.warn(warning)
    if not bundle:
        output.result(data, *body, *after_model(out, options), brief=f"model {out}")
    elif copy is not None:
        output.result(
            data,
            *body,
            *after_copy(Path(options["source"]), out, _copies(place)),
            brief=f"copy {out / names[0]}",
        )
    else:
        told = after_update(out, Path(options["source"]), options, packs.get(out))
        kept = f"keep  {' and '.join(_given_files(options))}"
        output.result(data, *body, *told, kept, brief=f"update {packs.get(out, out)}")


def _copies(handoff: Path) -> list[str]:
    from mpu_cli.bundle.manifest import decode
    from mpu_cli.bundle.read import manifest_bytes

    return [copy.name for copy in decode(manifest_bytes(handoff), handoff).copies]


def _given_files(options: dict[str, Any]) -> list[str]:
    return [options[name] for name in ("forget", "retain", "refusals") if options[name] is not None]


def _list_methods(output: Output) -> None:
    from mpu_cli.cli.unlearn_view import method_facts, method_view
    from mpu_cli.client import methods

    described = methods.describe()
    output.result(
        {"methods": [method_facts(info) for info in described]},
        *(part for info in described for part in method_view(info)),
    )
