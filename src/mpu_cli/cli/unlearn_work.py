"""From the options of `mpu unlearn` to what the client brings: rows, recipe, and where things are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mpu_cli.cli.output import Output
from mpu_cli.errors import UsageError

if TYPE_CHECKING:
    from mpu_cli.client.lora import Lora
    from mpu_cli.client.unlearn import Work
    from mpu_cli.training.settings import TrainingSettings

Options = Mapping[str, Any]
"""The command's parameters by name, as parsed."""


def plan(context: typer.Context, output: Output) -> tuple[TrainingSettings, list[str]]:
    """Training settings and the method's parameters as `--set` has them; a preset gives what was not given itself.

    Raises:
        UsageError: a setting is outside its range, or the preset does not know the method.
    """
    from mpu_cli.cli.options import choice
    from mpu_cli.cli.unlearn_words import rounds_advice
    from mpu_cli.client import methods, preset
    from mpu_cli.training.settings import TrainingSettings

    options: Options = context.params
    values = {field.name: options[field.name] for field in fields(TrainingSettings)}
    assignments = list(options["set_"] or [])
    if options["preset"] is not None:
        choice("--preset", options["preset"], ("paper",))
        chosen = methods.find(options["method"])
        settings, assignments, rounds = preset.paper(chosen, assignments)
        values |= {name: value for name, value in settings.items() if not _given(context, name)}
        output.note(rounds_advice(chosen.name, rounds, values["epochs"]))
    return TrainingSettings(**values), assignments


def bring(context: typer.Context, output: Output) -> Work:
    """Everything that training needs, checked before a model is loaded.

    Raises:
        UsageError, BadDataError: the options contradict each other, or a file of rows cannot be used.
    """
    from mpu_cli.checkpoint.staging import refuse_nesting
    from mpu_cli.checkpoint.writer import parse_size
    from mpu_cli.cli.options import prompting_of
    from mpu_cli.client import methods
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.unlearn import Work
    from mpu_cli.client.work_directory import Keeping
    from mpu_cli.data.mapping import for_retain, parse_mapping
    from mpu_cli.data.refusals import read_refusals, with_refusals
    from mpu_cli.data.rows import read_rows
    from mpu_cli.data.source import find_data
    from mpu_cli.training.event_log import check_available

    options: Options = context.params
    settings, assignments = plan(context, output)
    if options["forget"] is None:
        raise UsageError("--forget is needed", "give the rows to forget: JSON, JSONL, CSV, Parquet or text")
    if settings.stop_retain_below is not None and options["retain"] is None:
        raise UsageError("--stop-retain-below is about the retain set", "give --retain FILE too")
    forget, retain, refusals = (find_data(options[name]) if options[name] else None for name in ("forget", "retain", "refusals"))
    assert forget is not None
    private = [path for path in (forget, retain, refusals, options["log_dir"], options["work"]) if path is not None]
    refuse_nesting(options["out"], *private)
    if options["log_dir"] is not None:
        check_available()
    mapping = parse_mapping(options["map_"] or [])
    chosen = methods.find(options["method"])
    parameters = chosen.parse(assignments)
    warm_up = float(parameters.get("warmup_epochs", 0))
    if warm_up >= settings.epochs:
        output.warn(f"{chosen.name}: its weight first moves after epoch {warm_up:g}, and --epochs is {settings.epochs}")
    rows = read_rows(forget, mapping)
    if refusals is not None:
        if "alternate" not in chosen.needs_with(parameters):
            raise UsageError(f"--refusals: {chosen.name} has no use for alternate answers", "leave it out, or choose DPO")
        rows = with_refusals(rows, read_refusals(refusals), settings.seed)
    has_alternates = all(row.alternate is not None for row in rows)
    chosen.check(parameters, has_retain=retain is not None, has_alternates=has_alternates)
    kept = read_rows(retain, for_retain(mapping)) if retain is not None else None
    recipe = Recipe.of_files(
        chosen.name, parameters, settings, forget, retain, refusals, mapping, lora=adapter(options), prompting=prompting_of(options)
    )
    return Work(
        rows, kept, recipe, options["delta_dtype"], parse_size(options["max_shard_size"]),
        Keeping(options["resume"], options["save_steps"], options["save_seconds"], options["work"]), options["log_dir"],
        on_kept=lambda path: output.note(f"what is done is kept in {path}; the same command with --resume goes on"),
        warn=output.warn, note=output.note,
    )  # fmt: skip


def needs_of(context: typer.Context, output: Output, place: Path) -> dict[str, int]:
    """What `--dry-run` counts."""
    from mpu_cli.client import methods
    from mpu_cli.client.estimate import estimate_unlearn
    from mpu_cli.training.distributed import processes, refuse_unsharded

    options: Options = context.params
    settings, assignments = plan(context, output)
    refuse_unsharded(settings)
    chosen = methods.find(options["method"])
    # A parameter without a default does not matter here.
    named = {assignment.partition("=")[0].strip() for assignment in assignments}
    required = [f"{p.name}=1" for p in chosen.parameters if p.default is None and p.name not in named]
    needs = chosen.needs_with(chosen.parse([*assignments, *required]))
    return estimate_unlearn(
        place, settings, options["delta_dtype"], lora=adapter(options), processes=options["processes"] or processes().size,
        passes=1 + sum(word in needs for word in ("retain", "alternate")),
        checkpoints=bool(options["save_steps"] or options["save_seconds"]),
    )  # fmt: skip


def adapter(options: Options) -> Lora | None:
    """The options of LoRA, or None without it.

    Raises:
        UsageError: its other options without a rank.
    """
    from mpu_cli.client.lora import DEFAULT_ROLES, Lora

    rank, alpha = options["lora_rank"], options["lora_alpha"]
    named = tuple(part.strip() for part in options["lora_targets"].split(",") if part.strip())
    named = () if named == DEFAULT_ROLES else named
    if rank is not None and options["fsdp"]:
        raise UsageError("--lora-rank and --fsdp: adapters are not sharded", "leave --fsdp out: an adapter's optimizer is small")
    if rank is None:
        if alpha is not None or named:
            raise UsageError("--lora-alpha and --lora-targets belong to LoRA", "give --lora-rank too")
        return None
    return Lora(rank, alpha, named)


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, on the command line or in a file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in {"DEFAULT", "UNSET"}
