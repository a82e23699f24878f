"""Evaluate a model on sets of rows: load it, measure it, run the robustness checks, summarise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli import __version__
from mpu_cli.checkpoint.file_state import WatchedModel
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import encode_whole
from mpu_cli.data.tokens import tokens_digest
from mpu_cli.evaluation.answer_scores import answers_of
from mpu_cli.evaluation.measured_rows import MeasuredRows
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import ModelUnderTest, Progress
from mpu_cli.evaluation.preflight import (
    check_names,
    check_sets,
    chosen_row_metrics,
    without_generation,
)
from mpu_cli.evaluation.prompt_format import check_prompt_formats, prompt_format
from mpu_cli.evaluation.questions import FORGET, HOLDOUT, KNOWLEDGE, QuestionSet
from mpu_cli.evaluation.records.provenance import circumstances, identity, published_as
from mpu_cli.evaluation.records.record import Record, SetInfo, require_same_rows
from mpu_cli.evaluation.relearned import remarks, with_steps
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.summarise import summarise
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.device import choose_device
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.processes import this_process
from mpu_cli.modeling.tokenizer import load_tokenizer

_LONG = 10.0
"""Seconds; the time of a check that took less is not reported."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A record, with notes and warnings for the user."""

    record: Record
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def evaluate(
    model: Path,
    sets: Sequence[QuestionSet],
    settings: EvalSettings,
    *,
    name: str | None = None,
    handoff: Mapping[str, str] | None = None,
    reference: Path | None = None,
    retain_record: Record | None = None,
    before: Record | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure all metrics that the given sets allow, and give reasons for the others.

    Args:
        model: a model directory.
        sets: at least one, with distinct names.
        settings: which metrics to measure, and how.
        name: the model's name in the record; None = the directory's name.
        handoff: id and digest of the handoff, and name of the copy that the model is or was made
            from; None = read from the directory above the model.
        reference: another model, for membership by reference.
        retain_record: the record of a model that never saw the forget set.
        before: the record of the model before unlearning; relearning then reports how many steps
            restore its probabilities.
        progress: called with (what, done, total).

    Raises:
        UsageError: no sets, two of one name, or an unknown metric or check.
        BadDataError: an answer that does not fit in the model's context, or a record of other rows.
        BadModelError: no tokenizer, tensors missing, or logits that are not finite; or a model's
            file was altered meanwhile.
    """
    check_names(settings)
    check_sets(sets)
    records = {
        flag: record
        for flag, record in (("--retain-record", retain_record), ("--before", before))
        if record is not None
    }
    for flag, record in records.items():
        require_same_rows(flag, record, {rows.name: SetInfo.of(rows) for rows in sets})
    check_prompt_formats(sets, settings)
    started = time.monotonic()
    tokenizer = load_tokenizer(model)
    infos = {rows.name: SetInfo.of(rows, _tokens(rows, tokenizer, settings)) for rows in sets}
    for flag, record in records.items():
        require_same_rows(flag, record, infos)
    files = WatchedModel(open_checkpoint(model))
    compared = WatchedModel(open_checkpoint(reference)) if reference else None
    loaded = load_model(model)
    device = choose_device(settings.device)
    tested = ModelUnderTest(loaded.model.to(device), tokenizer, sets, settings, progress)
    metrics = chosen_row_metrics(settings)
    if reference is not None:
        tested.reference = _reference_scores(reference, tested)
    measured = tested.measure(metrics)
    seconds = _run_checks(tested, metrics, measured)
    who: dict[str, Any] = {"name": name or model.resolve().name}
    made: dict[str, Any] = {}
    doubt = None
    if this_process().is_first:  # only the first process keeps a record
        origin, doubt = published_as(model) if handoff is None else (handoff, None)
        who = {**identity(model, name, progress), "handoff": origin}
        second = identity(reference, None, progress) if reference else None
        others = {
            "retain_record": retain_record.model if retain_record else None,
            "before": before.model if before else None,
            "reference": second,
        }
        files.require_unchanged(who["digest"])  # it was computed after the model was loaded
        if compared is not None and second is not None:
            compared.require_unchanged(second["digest"])
        made = circumstances(device, **others)
    record = Record(
        {**who, "mpu": __version__},
        {
            **_settings_as_recorded(settings, tested),
            "seconds": round(time.monotonic() - started, 1),
            "seconds_of_checks": seconds,
        },
        infos,
        measured.columns,
        {**measured.reasons, **without_generation(settings)},
        written=measured.written,
        made=made,
    )
    record = summarise(record, retain_record, settings.metrics, settings.seed, settings.resamples)
    if before is not None and "relearning" in settings.robustness:
        record = with_steps(record, before)
    notes = (*_notes(tested, seconds), *remarks(record))
    return Evaluation(record, notes, (*loaded.remarks, *([doubt] if doubt else [])))


def _run_checks(
    tested: ModelUnderTest, metrics: Sequence[RowMetric], measured: MeasuredRows
) -> dict[str, float]:
    """Add the columns of every chosen check; return the seconds that each took."""
    seconds = {}
    for name in tested.settings.robustness:
        started = time.monotonic()
        measured.add(all_checks()[name].run(tested, metrics))
        seconds[name] = round(time.monotonic() - started, 1)
    return seconds


def _notes(tested: ModelUnderTest, seconds: Mapping[str, float]) -> list[str]:
    notes = []
    if cut := len(set(tested.encoder.cut)):
        notes.append(
            f"{cut} plain texts are longer than {tested.encoder.max_length} tokens: only their"
            " first tokens are measured"
        )
    for name, tokens in tested.new_tokens.items():
        if tokens < tested.prompt_formats[name].tokens:
            notes.append(
                f"{name}: the model wrote at most {tokens} tokens, because its context has no room"
                " for more after the longest question"
            )
    if any(
        rows.role == KNOWLEDGE and not rows.examples
        for rows in tested.sets
        if rows.name in tested.new_tokens
    ):
        notes.append(
            "the knowledge questions were asked without examples; MUSE puts ten before each"
            " question (--few-shot FILE)"
        )
    long = [f"{check} {spent:.0f} s" for check, spent in seconds.items() if spent >= _LONG]
    return [*notes, "the checks took " + ", ".join(long)] if long else notes


def _tokens(question_set: QuestionSet, tokenizer: Any, settings: EvalSettings) -> str:
    """Digest of the rows as tokens; of the bare prompts in a set with MUSE's prompts."""
    asked = prompt_format(question_set, settings)
    texts = [(question.row, asked.text(question.row)) for question in question_set.questions]
    rows = (row if text is None else Row(row.where, text=text) for row, text in texts)
    return tokens_digest(encode_whole(row, tokenizer, settings.prompting) for row in rows)


def _reference_scores(model: Path, tested: ModelUnderTest) -> dict[tuple[str, int], TokenScores]:
    """Another model's scores of the forget and holdout rows, with its own tokenizer."""
    other = ModelUnderTest(
        load_model(model).model.to(choose_device(tested.settings.device)),
        load_tokenizer(model),
        [rows for rows in tested.sets if rows.role in (FORGET, HOLDOUT)],
        tested.settings,
    )
    return answers_of(other)


def _settings_as_recorded(settings: EvalSettings, tested: ModelUnderTest) -> dict[str, Any]:
    return {
        "metrics": list(settings.metrics),
        "generate": settings.generate,
        "batch_size": settings.batch_size,
        "max_length": tested.encoder.max_length,
        "rouge": "unicode words",
        "asked": {
            name: tested.prompt_formats[name].as_recorded(tokens)
            for name, tokens in tested.new_tokens.items()
        },
        "samples": settings.samples,
        "temperature": settings.temperature,
        "relearn_rows": settings.relearn_rows,
        "relearn_steps": settings.relearn_steps,
        "relearn_rates": list(settings.relearn_rates),
        "robustness": list(settings.robustness),
        "resamples": settings.resamples,
        "seed": settings.seed,
        "prompting": settings.prompting.for_record(),
    }
