"""From the options of `mpu unlearn` to what the client brings.

rows, recipe, and where things are kept.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from mpu_cli.cli.output import Output
from mpu_cli.errors import MpuError, UsageError

if TYPE_CHECKING:
    from mpu_cli.client.duration import RowSizes
    from mpu_cli.client.job import UnlearnJob
    from mpu_cli.client.lora import Lora
    from mpu_cli.client.methods import MethodInfo, Value
    from mpu_cli.client.reference_source import ReferenceSource
    from mpu_cli.data.rows import Row
    from mpu_cli.training.settings import TrainingSettings

Options = Mapping[str, Any]
"""The command's parameters by name, as parsed."""


def plan(context: typer.Context, output: Output, place: Path) -> tuple[TrainingSettings, list[str]]:
    """Training settings and the method's parameters as `--set` has them.

    A preset gives what was not given itself.

    Raises:
        UsageError: a setting is outside its range, or the preset does not know the method.
    """
    from mpu_cli.cli.options import choice
    from mpu_cli.cli.unlearn_view import preset_words, rounds_advice
    from mpu_cli.client import methods, preset
    from mpu_cli.training.settings import TrainingSettings

    options: dict[str, Any] = context.params
    values = {field.name: options[field.name] for field in fields(TrainingSettings)}
    assignments = list(options["set_"] or [])
    if options["preset"] is not None:
        choice("--preset", options["preset"], ("paper",))
        chosen = methods.find(options["method"])
        settings, assignments, rounds = preset.paper(chosen, assignments)
        given = {name for name in settings if _given(context, name)}
        values |= {name: value for name, value in settings.items() if name not in given}
        if (
            values["train_embeddings"]
            and "train_embeddings" not in given
            and (frozen := _frozen(place))
        ):
            values["train_embeddings"] = False
            output.warn(
                f"preset paper: this handoff freezes {', '.join(frozen)}, which the authors"
                " trained; the server lets them move with perturb --preset paper or"
                " --train-embeddings"
            )
        if (
            values["train_embeddings"]
            and "train_embeddings" not in given
            and options["lora_rank"] is not None
        ):
            values["train_embeddings"] = False
            output.note(
                "preset paper: the authors train embeddings, which an adapter (--lora-rank) leaves"
                " as they are"
            )
        told = {name: value for name, value in values.items() if name in settings}
        output.note(preset_words(told, given, chosen.parse(assignments)))
        output.note(rounds_advice(chosen.name, rounds, values["epochs"]))
        _check_reference(chosen, chosen.parse(assignments), rounds, options, output)
    if options["lora_rank"] is not None and values["train_embeddings"]:
        raise UsageError(
            "--lora-rank and --train-embeddings: an adapter leaves the embeddings as they are",
            "leave one of them out",
        )
    if values["learning_rate"] is None:
        rate = _rate_of(place)
        values["learning_rate"] = TrainingSettings().learning_rate if rate is None else rate
    return TrainingSettings(**values), assignments


def tell_rate(output: Output, options: Mapping[str, Any], place: Path) -> None:
    """Say which learning rate was taken where neither the user nor a preset chose one.

    Once nothing can be refused any more.
    """
    if (
        options["learning_rate"] is None
        and options["preset"] is None
        and (rate := _rate_of(place)) is not None
    ):
        output.note(
            f"note: learning rate {rate:g}, by the model's size; --learning-rate sets another"
        )


def _rate_of(place: Path) -> float | None:
    """The usual learning rate for a model, for a handoff's copies, or for a config.json alone (--dry-run)."""
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.model import open_config, read_json
    from mpu_cli.training.usual_rate import rate_for

    directory = place / "copy-1" if is_bundle(place) else place
    try:
        config = read_json(place) if place.is_file() else open_config(directory).content
    except MpuError:
        return None  # whoever opens the model says what is wrong with it
    return rate_for(config, directory)


def _check_reference(
    method: MethodInfo,
    parameters: Mapping[str, Value],
    rounds: int,
    options: Options,
    output: Output,
) -> None:
    """The authors' reference is the model before the first round, in every round."""
    if options["reference"] is not None or not method.references_with(parameters) or rounds == 1:
        return
    number = options["round_number"]
    if number is None:
        output.warn(
            f"{method.name} compares with this handoff's copies; from round 2 on give --reference"
            " with round 1's handoff"
        )
    elif number > 1:
        raise UsageError(
            f"--preset paper --round {number}: {method.name} compares with the model before"
            " round 1",
            "give --reference with round 1's handoff (its copies are enough), or with that model",
        )


def _frozen(place: Path) -> tuple[str, ...]:
    """What a handoff's manifest freezes, read before the handoff is verified.

    Nothing of a model.
    """
    from mpu_cli.bundle.manifest import HandoffManifest, decode
    from mpu_cli.bundle.read import is_bundle, manifest_bytes

    manifest = decode(manifest_bytes(place), place) if is_bundle(place) else None
    return manifest.frozen if isinstance(manifest, HandoffManifest) else ()


def build_job(context: typer.Context, output: Output, place: Path) -> UnlearnJob:
    """Everything that training needs, checked before a model is loaded.

    Raises:
        UsageError, BadDataError: the options contradict each other, or a file of rows cannot be
            used, or all rows to forget are to be kept.
    """
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.staging import refuse_nesting
    from mpu_cli.checkpoint.writer import parse_size
    from mpu_cli.cli.options import prompting_of
    from mpu_cli.cli.unlearn_effect import Brought, refuse_without_effect
    from mpu_cli.client import methods, preset
    from mpu_cli.client.job import UnlearnJob
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.work_directory import Keeping
    from mpu_cli.data.formats.csv_table import parse_delimiter
    from mpu_cli.data.mapping import for_retain, parse_mapping
    from mpu_cli.data.refusals import read_refusals, with_refusals
    from mpu_cli.data.rows import read_rows
    from mpu_cli.data.source import find_data
    from mpu_cli.training.event_log import check_available

    options: dict[str, Any] = context.params
    settings, assignments = plan(context, output, place)
    if options["forget"] is None:
        raise UsageError(
            "--forget is needed", "give the rows to forget: JSON, JSONL, CSV, Parquet or text"
        )
    if settings.stop_retain_below is not None and options["retain"] is None:
        raise UsageError("--stop-retain-below is about the retain set", "give --retain FILE too")
    forget, retain, refusals = (
        find_data(options[name]) if options[name] else None
        for name in ("forget", "retain", "refusals")
    )
    assert forget is not None
    private = [
        path
        for path in (forget, retain, refusals, options["log_dir"], options["work"])
        if path is not None
    ]
    refuse_nesting(options["out"], *private)
    if options["log_dir"] is not None:
        check_available()
    mapping, delimiter = parse_mapping(options["map_"] or []), parse_delimiter(options["delimiter"])
    chosen = methods.find(options["method"])
    parameters = chosen.parse(assignments)
    warm_up = float(parameters.get("warmup_epochs", -1))
    if warm_up >= settings.epochs:
        output.warn(
            f"{chosen.name}: no epoch comes after its warm-up of {warm_up:g}, so its weight never"
            f" adapts: give --epochs {warm_up + 1:g} or more, or a shorter warm-up (--set"
            " warmup_epochs=N)"
        )
    reference = _reference(options, chosen, parameters)
    rows = read_rows(forget, mapping, delimiter=delimiter, tell=output.note)
    cards: list[str] = []
    if refusals is not None:
        if "alternate" not in chosen.inputs_with(parameters):
            raise UsageError(
                f"--refusals: {chosen.name} has no use for alternate answers",
                "leave it out, or choose DPO",
            )
        cards = read_refusals(refusals, delimiter=delimiter, tell=output.note)
        rows = with_refusals(
            rows, cards, settings.seed, independent=settings.draws == "independent"
        )
    has_alternates = all(row.alternate is not None for row in rows)
    chosen.check(parameters, has_retain=retain is not None, has_alternates=has_alternates)
    kept = (
        read_rows(retain, for_retain(mapping), delimiter=delimiter, tell=output.note)
        if retain is not None
        else None
    )
    texts = any(row.text is not None for row in [*rows, *(kept or ())])
    brought = Brought(
        is_handoff=is_bundle(place), retain=bool(kept), refusals=bool(cards), texts=texts
    )
    refuse_without_effect(settings, brought, lambda name: _given(context, name))
    _tell_overlap(options, output, rows, kept or [])
    if options["preset"] is not None and not _given(context, "max_length") and texts:
        settings = replace(settings, max_length=preset.TEXT_LENGTH)
        output.note(f"preset paper: plain texts, so --max-length {preset.TEXT_LENGTH}")
    prompts = _preset_prompts(context, output, place) if options["preset"] is not None else {}
    if settings.train_embeddings:
        output.warn(
            "embeddings are trained: rows of theirs that move tell the server which tokens the"
            " forget and retain sets hold"
        )
    recipe = Recipe.of_files(
        chosen.name,
        parameters,
        settings,
        forget,
        retain,
        refusals,
        mapping,
        lora=adapter(options),
        prompting=prompting_of(options | prompts),
        reference=reference.digest if reference else None,
    )
    return UnlearnJob(
        rows,
        kept,
        recipe,
        options["delta_dtype"],
        parse_size(options["max_shard_size"]),
        Keeping(options["resume"], options["save_steps"], options["save_seconds"], options["work"]),
        refusals=tuple(cards),
        reference=reference,
        log_dir=options["log_dir"],
        resume_with=resuming(context),
        warn=output.warn,
        note=output.note,
    )


def resuming(context: typer.Context) -> str:
    """The command line that goes on with this one."""
    from mpu_cli.modeling.processes import launcher

    given = list(context.find_root().obj["arguments"])
    if "--resume" not in given:
        given.insert(given.index("--") if "--" in given else len(given), "--resume")
    return shlex.join([*launcher(), *given])


def _tell_overlap(options: Options, output: Output, rows: list[Row], kept: list[Row]) -> None:
    """Warn of rows to forget that are to be kept as well; refuse if that is all there is."""
    from mpu_cli.data.overlap import RowSet, check_disjoint

    shared = check_disjoint(
        RowSet("--forget", rows), RowSet("--retain", kept), allow=options["allow_overlap"]
    )
    if shared is not None:
        output.warn(shared)


def _preset_prompts(context: typer.Context, output: Output, place: Path) -> dict[str, str]:
    """The authors' system prompt and date, but for what was given.

    Nothing where no chat template would read them.
    """
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.client.preset import PROMPTING
    from mpu_cli.modeling.load import load_tokenizer

    if not load_tokenizer(place / "copy-1" if is_bundle(place) else place).chat_template:
        return {}
    chosen = {name: value for name, value in PROMPTING.items() if not _given(context, name)}
    told = [f"--{name.replace('_', '-')} {value!r}" for name, value in chosen.items()]
    output.note(f"preset paper: {', '.join(told) or 'prompts are yours'}")
    return chosen


def _reference(
    options: Options, method: MethodInfo, parameters: Mapping[str, Value]
) -> ReferenceSource | None:
    if options["reference"] is None:
        return None
    if not method.references_with(parameters):
        raise UsageError(
            f"--reference: {method.name} compares with nothing",
            "leave it out, or choose NPO, DPO or UnDIAL",
        )
    if options["fsdp"]:
        raise UsageError(
            "--reference and --fsdp: a second model is not sharded", "leave --fsdp out"
        )
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.checkpoint.staging import refuse_nesting
    from mpu_cli.client.reference_source import open_reference

    path = Path(options["reference"])
    path = path if is_bundle(path) else locate(options["reference"]).path
    refuse_nesting(options["out"], path)
    return open_reference(path)


def resource_estimate(context: typer.Context, output: Output, place: Path) -> dict[str, int]:
    """What `--dry-run` counts; time only for rows that were given."""
    from mpu_cli.client import duration, methods
    from mpu_cli.client.estimate import estimate_unlearn
    from mpu_cli.modeling.processes import this_process
    from mpu_cli.training.distributed import refuse_unsharded

    options: dict[str, Any] = context.params
    settings, assignments = plan(context, output, place)
    refuse_unsharded(settings)
    chosen = methods.find(options["method"])
    # A parameter without a default does not matter here.
    named = {assignment.partition("=")[0].strip() for assignment in assignments}
    required = [
        f"{p.name}=1" for p in chosen.parameters if p.default is None and p.name not in named
    ]
    inputs = chosen.inputs_with(chosen.parse([*assignments, *required]))
    sizes = _row_sizes(options, settings, place) if options["forget"] is not None else None
    passes = 1 + sum(word in inputs for word in ("retain", "alternate"))
    found = estimate_unlearn(
        place,
        settings,
        options["delta_dtype"],
        lora=adapter(options),
        processes=options["processes"] or this_process().size,
        passes=passes,
        checkpoints=bool(options["save_steps"] or options["save_seconds"]),
        longest=sizes and sizes.longest,
    )
    if options["copy"] is not None:  # only that one is trained and written here
        found |= {name: found[name] // found["copies"] for name in ("disk_bytes", "sent_bytes")} | {
            "copies": 1
        }
    if sizes is None:
        return found
    steps = settings.total_steps(sizes.rows)
    operations = duration.products_of_a_step(settings, found["parameters"], sizes.mean, passes)
    speed = duration.measured_speed(settings) * found["processes"]
    seconds = duration.seconds_in_all(steps, found["copies"], operations, speed)
    return found | {
        "rows": sizes.rows,
        "longest_row_tokens": sizes.longest,
        "steps": steps,
        "seconds": round(seconds),
    }


def _row_sizes(options: Options, settings: TrainingSettings, place: Path) -> RowSizes:
    """Of the rows that were given, as the model's tokenizer cuts them."""
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.cli.options import prompting_of
    from mpu_cli.client.duration import RowSizes
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.client.training_rows import RowEncoder
    from mpu_cli.data.mapping import for_retain, parse_mapping
    from mpu_cli.data.rows import read_rows
    from mpu_cli.data.source import find_data

    if place.is_file() or not any(place.glob("**/tokenizer*")):
        raise UsageError(
            f"--forget with --dry-run: {place} has no tokenizer to count tokens with",
            "leave --forget out",
        )
    forget, retain = (
        find_data(options[name]) if options[name] else None for name in ("forget", "retain")
    )
    assert forget is not None
    mapping = parse_mapping(options["map_"] or [])
    recipe = Recipe.of_files(
        options["method"],
        {},
        settings,
        forget,
        retain,
        mapping=mapping,
        prompting=prompting_of(options),
    )
    encoder = RowEncoder(place / "copy-1" if is_bundle(place) else place, recipe)
    rows = encoder.training_rows(
        read_rows(forget, mapping), read_rows(retain, for_retain(mapping)) if retain else None
    )
    return RowSizes.of(rows.forget, rows.retain)


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
        raise UsageError(
            "--lora-rank and --fsdp: adapters are not sharded",
            "leave --fsdp out: an adapter's optimizer is small",
        )
    if rank is None:
        if alpha is not None or named:
            raise UsageError(
                "--lora-alpha and --lora-targets belong to LoRA", "give --lora-rank too"
            )
        return None
    return Lora(rank, alpha, named)


def _given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, on the command line or in a file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name not in {"DEFAULT", "UNSET"}
