"""From the options of `mpu unlearn` to the client's work: rows, recipe and places."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.cli.output import Output
from mpu_cli.errors import MpuError, UsageError
from mpu_cli.option import flags_of
from mpu_cli.training.settings import TrainingSettings

if TYPE_CHECKING:
    from mpu_cli.bundle.manifest import HandoffManifest
    from mpu_cli.cli.unlearn_options import UnlearnOptions
    from mpu_cli.client.job import UnlearnJob
    from mpu_cli.client.methods import MethodInfo, Value
    from mpu_cli.client.reference_source import ReferenceSource
    from mpu_cli.data.rows import Row


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is trained, and how."""

    method: MethodInfo
    assignments: Sequence[str]
    """The method's parameters as `--set` has them."""
    settings: TrainingSettings


def plan(job: UnlearnOptions, output: Output, place: Path) -> TrainingPlan:
    """Complete the settings: by the preset, the handoff and the model's size.

    Raises:
        UsageError: two options contradict each other, or the preset does not know the method.
    """
    from mpu_cli.client import methods

    method, assignments, settings = methods.find(job.method), list(job.assignments), job.training
    if job.preset_name is not None:
        settings, assignments = _with_preset(job, output, place, method)
    if job.lora is not None and settings.train_embeddings:
        raise UsageError(
            "--lora-rank and --train-embeddings: an adapter does not change the embeddings",
            "leave one of them out",
        )
    if job.lora is not None and settings.fsdp:
        raise UsageError(
            "--lora-rank and --fsdp: adapters are not sharded",
            "leave --fsdp out: an adapter's optimizer is small",
        )
    rate = _rate_of(place) if _rate_is_free(job) else None
    return TrainingPlan(
        method, assignments, settings if rate is None else replace(settings, learning_rate=rate)
    )


def _with_preset(
    job: UnlearnOptions, output: Output, place: Path, method: MethodInfo
) -> tuple[TrainingSettings, list[str]]:
    from mpu_cli.cli.unlearn_view import preset_words, rounds_advice
    from mpu_cli.client import preset

    sets, assignments, rounds = preset.paper(method, job.assignments)
    parameters, settings = method.parse(assignments), job.training
    if settings.train_embeddings and "--train-embeddings" not in job.given:
        manifest = _manifest(place)
        if manifest is not None and (frozen := manifest.frozen_for_training):
            settings = replace(settings, train_embeddings=False)
            output.warn(
                f"preset paper: this handoff freezes {', '.join(frozen)}, which the authors"
                " trained; the server lets the client train them with perturb --preset paper or"
                " --train-embeddings"
            )
        elif job.lora is not None:
            settings = replace(settings, train_embeddings=False)
            output.note(
                "preset paper: the authors train embeddings, which an adapter (--lora-rank) does"
                " not change"
            )
    flags = flags_of(TrainingSettings)
    chosen = {flags[name]: getattr(settings, name) for name in sets}
    output.note(preset_words(chosen, job.given, parameters))
    output.note(rounds_advice(method.name, rounds, settings.epochs))
    _check_reference(job, output, method, parameters, rounds)
    return settings, assignments


def _rate_is_free(job: UnlearnOptions) -> bool:
    return "--learning-rate" not in job.given and job.preset_name is None


def print_rate(job: UnlearnOptions, output: Output, place: Path) -> None:
    """Print the learning rate that the model's size chose, once nothing can be refused any more."""
    if _rate_is_free(job) and (rate := _rate_of(place)) is not None:
        output.note(
            f"note: learning rate {rate:g}, chosen from the model's size; --learning-rate overrides"
            " it"
        )


def _rate_of(place: Path) -> float | None:
    """The usual learning rate for a model, a handoff's copies, or a config.json alone."""
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.model import open_config, read_json
    from mpu_cli.training.usual_rate import rate_for

    directory = place / "copy-1" if is_bundle(place) else place
    try:
        config = read_json(place) if place.is_file() else open_config(directory).content
    except MpuError:
        return None  # the code that opens the model reports what is wrong with it
    return rate_for(config, directory)


def _check_reference(
    job: UnlearnOptions,
    output: Output,
    method: MethodInfo,
    parameters: Mapping[str, Value],
    rounds: int,
) -> None:
    """The authors' reference is the model before the first round, in every round."""
    if job.reference is not None or not method.references_with(parameters) or rounds == 1:
        return
    number = job.training.round_number
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


def _manifest(place: Path) -> HandoffManifest | None:
    """A handoff's manifest, read before the handoff is verified; None for a model."""
    from mpu_cli.bundle.manifest import HandoffManifest, decode
    from mpu_cli.bundle.read import is_bundle, manifest_bytes

    manifest = decode(manifest_bytes(place), place) if is_bundle(place) else None
    return manifest if isinstance(manifest, HandoffManifest) else None


def build_job(job: UnlearnOptions, output: Output, place: Path) -> UnlearnJob:
    """Everything that training needs, checked before a model is loaded.

    Raises:
        UsageError: the options contradict each other.
        BadDataError: a file of rows cannot be used, or all rows to forget are rows to keep.
    """
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.cli.unlearn_effect import RunInput, refuse_without_effect
    from mpu_cli.client.cover import with_cover, words
    from mpu_cli.client.cut_handoff import check_settings, parameters_for
    from mpu_cli.client.job import UnlearnJob
    from mpu_cli.client.recipe import Recipe
    from mpu_cli.data.mapping import for_retain
    from mpu_cli.data.refusals import read_refusals, with_refusals
    from mpu_cli.data.rows import read_rows

    chosen = plan(job, output, place)
    method, settings = chosen.method, chosen.settings
    forget, retain, refusals, cover, unanswerable = _files(job, settings)
    parameters = method.parse(chosen.assignments)
    manifest = _manifest(place)
    if manifest is not None and manifest.cut is not None:
        parameters = parameters_for(method, parameters, manifest.cut)
        check_settings(settings)
    _warn_of_warm_up(output, method, parameters, settings.epochs)
    reference = _reference(job, method, parameters)
    mapping, delimiter = job.columns.mapping, job.columns.delimiter
    rows = read_rows(forget, mapping, delimiter=delimiter, tell=output.note)
    if cover is not None:
        covering = read_rows(cover, mapping, delimiter=delimiter, tell=output.note)
        both = with_cover(rows, covering)
        output.note(words(len(rows), len(covering)))
        rows = both
    answers: list[str] = []
    if refusals is not None:
        if "alternate" not in method.inputs_with(parameters):
            raise UsageError(
                f"--refusals: {method.name} has no use for alternate answers",
                "leave it out, or choose DPO",
            )
        answers = read_refusals(refusals, delimiter=delimiter, tell=output.note)
        independent = settings.draws == "independent"
        rows = with_refusals(rows, answers, settings.seed, independent=independent)
    has_alternates = all(row.alternate is not None for row in rows)
    method.check(
        parameters,
        has_retain=retain is not None,
        has_alternates=has_alternates,
        has_unanswerable=unanswerable is not None,
    )
    retain_rows, questions = (
        None
        if file is None
        else read_rows(file, for_retain(mapping), delimiter=delimiter, tell=output.note)
        for file in (retain, unanswerable)
    )
    texts = any(row.text is not None for row in [*rows, *(retain_rows or ())])
    run_input = RunInput(
        is_handoff=is_bundle(place), retain=bool(retain_rows), refusals=bool(answers), texts=texts
    )
    refuse_without_effect(settings, run_input, job.given)
    _warn_of_overlap(job, output, rows, retain_rows or [])
    if job.preset_name is not None:
        settings, job = _with_preset_texts(job, output, place, settings, has_texts=texts)
    if settings.train_embeddings:
        output.warn(
            "embeddings are trained: their rows that change tell the server which tokens"
            " the forget and retain sets hold"
        )
    recipe = Recipe.of_files(
        method.name,
        parameters,
        settings,
        forget,
        retain,
        refusals,
        mapping,
        lora=job.lora,
        prompting=job.prompting,
        reference=reference.digest if reference else None,
        cover=cover,
        unanswerable=unanswerable,
    )
    return UnlearnJob(
        rows,
        retain_rows,
        recipe,
        job.delta_dtype,
        job.storage.max_shard_bytes,
        job.checkpoints,
        refusals=tuple(answers),
        unanswerable=questions,
        reference=reference,
        log_dir=job.log_dir,
        resume_with=resuming(output.arguments),
        warn=output.warn,
        note=output.note,
    )


def _files(
    job: UnlearnOptions, settings: TrainingSettings
) -> tuple[Path, Path | None, Path | None, Path | None, Path | None]:
    """The files of rows to forget, rows to keep, refusals, cover rows, unanswerable questions."""
    from mpu_cli.checkpoint.staging import refuse_nesting
    from mpu_cli.data.source import find_data
    from mpu_cli.training.event_log import check_available

    if job.forget is None:
        raise UsageError(
            "--forget is needed", "give the rows to forget: JSON, JSONL, CSV, Parquet or text"
        )
    if settings.stop_retain_below is not None and job.retain is None:
        raise UsageError("--stop-retain-below needs a retain set", "give --retain FILE too")
    forget = find_data(job.forget)
    retain = find_data(job.retain) if job.retain is not None else None
    refusals = find_data(job.refusals) if job.refusals is not None else None
    cover = find_data(job.cover) if job.cover is not None else None
    unanswerable = find_data(job.unanswerable) if job.unanswerable is not None else None
    private = (
        forget,
        retain,
        refusals,
        cover,
        unanswerable,
        job.log_dir,
        job.checkpoints.directory,
    )
    assert job.out is not None
    refuse_nesting(job.out, *(path for path in private if path is not None))
    if job.log_dir is not None:
        check_available()
    return forget, retain, refusals, cover, unanswerable


def _warn_of_warm_up(
    output: Output, method: MethodInfo, parameters: Mapping[str, Value], epochs: int
) -> None:
    warm_up = float(parameters.get("warmup_epochs", -1))
    if warm_up >= epochs:
        output.warn(
            f"{method.name}: no epoch comes after its warm-up of {warm_up:g}, so its weight never"
            f" adapts: give --epochs {warm_up + 1:g} or more, or a shorter warm-up (--set"
            " warmup_epochs=N)"
        )


def resuming(arguments: Sequence[str]) -> str:
    """The command line that continues the run of these arguments."""
    from mpu_cli.modeling.processes import launcher

    words = list(arguments)
    if "--resume" not in words:
        words.insert(words.index("--") if "--" in words else len(words), "--resume")
    return shlex.join([*launcher(), *words])


def _warn_of_overlap(
    job: UnlearnOptions, output: Output, rows: list[Row], retain_rows: list[Row]
) -> None:
    """Warn of rows to forget that are also rows to keep; refuse if all of them are."""
    from mpu_cli.data.overlap import RowSet, check_disjoint

    forget = RowSet("--forget" if job.cover is None else "--forget and --cover", rows)
    retain = RowSet("--retain", retain_rows)
    warning = check_disjoint(forget, retain, allow=job.allow_overlap)
    if warning is not None:
        output.warn(warning)


def _with_preset_texts(
    job: UnlearnOptions,
    output: Output,
    place: Path,
    settings: TrainingSettings,
    *,
    has_texts: bool,
) -> tuple[TrainingSettings, UnlearnOptions]:
    """The authors' length of plain texts, and their prompts if a chat template reads them."""
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.client import preset
    from mpu_cli.modeling.tokenizer import load_tokenizer

    if has_texts and "--max-length" not in job.given:
        settings = replace(settings, max_length=preset.TEXT_LENGTH)
        output.note(f"preset paper: plain texts, so --max-length {preset.TEXT_LENGTH}")
    if not load_tokenizer(place / "copy-1" if is_bundle(place) else place).chat_template:
        return settings, job
    flags = flags_of(type(job.prompting))
    chosen = {name: text for name, text in preset.PROMPTING.items() if flags[name] not in job.given}
    words = ", ".join(f"{flags[name]} {text!r}" for name, text in chosen.items())
    output.note(f"preset paper: {words or 'prompts are yours'}")
    changes: dict[str, Any] = dict(chosen)
    return settings, replace(job, prompting=replace(job.prompting, **changes))


def _reference(
    job: UnlearnOptions, method: MethodInfo, parameters: Mapping[str, Value]
) -> ReferenceSource | None:
    if job.reference is None:
        return None
    if not method.references_with(parameters):
        raise UsageError(
            f"--reference: {method.name} uses no reference model",
            "leave it out, or choose NPO, DPO or UnDIAL",
        )
    if job.training.fsdp:
        raise UsageError(
            "--reference and --fsdp: a second model is not sharded", "leave --fsdp out"
        )
    from mpu_cli.bundle.read import is_bundle
    from mpu_cli.checkpoint.locate import locate
    from mpu_cli.checkpoint.staging import refuse_nesting
    from mpu_cli.client.reference_source import open_reference

    path = Path(job.reference)
    path = path if is_bundle(path) else locate(job.reference).path
    assert job.out is not None
    refuse_nesting(job.out, path)
    return open_reference(path)
