"""Evaluate a model on sets of rows: load, measure, try whether it stays forgotten, summarise."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli import __version__
from mpu_cli.data.rows import Row
from mpu_cli.data.templates import encode_whole
from mpu_cli.data.tokens import tokens_digest
from mpu_cli.errors import UsageError
from mpu_cli.evaluation.asking import asking, check_asking
from mpu_cli.evaluation.metric import RowMetric, probability
from mpu_cli.evaluation.metrics import model_metrics, row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest, Progress
from mpu_cli.evaluation.provenance import circumstances, identity, published_as
from mpu_cli.evaluation.questions import (
    FORGET,
    HOLDOUT,
    KNOWLEDGE,
    ROLES,
    Question,
    QuestionSet,
    question_set,
)
from mpu_cli.evaluation.record import Record, SetInfo, same_rows
from mpu_cli.evaluation.relearned import remarks, with_steps
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.summarise import MODEL, summarise
from mpu_cli.evaluation.token_scores import TokenScores
from mpu_cli.modeling.device import choose_device
from mpu_cli.modeling.load import load_model, load_tokenizer
from mpu_cli.modeling.processes import this_process

_WORTH_TELLING = 10.0
"""Seconds; a check that took less is no news."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate` found, and what the user must be told."""

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
    """All metrics that the given sets allow, with reasons for the others.

    Args:
        model: a model directory.
        sets: at least one, names distinct.
        settings: which metrics, and how.
        name: what the record calls the model; None = the directory's name.
        handoff: id and digest of the handoff and name of the copy that the model is, or was made
            from; None = found beside it.
        reference: another model, for membership by reference.
        retain_record: of a model that never saw the forget set.
        before: of the model before unlearning; relearning then says how many steps bring its
            probabilities back.
        progress: told (what, done, in all).

    Raises:
        UsageError: no sets, or two of one name.
        BadDataError: an answer that does not fit in the model's context, or a record of other rows.
        BadModelError: no tokenizer, tensors missing, logits that are not finite.
    """
    check_sets(sets)
    records = {
        flag: record
        for flag, record in (("--retain-record", retain_record), ("--before", before))
        if record is not None
    }
    for flag, record in records.items():
        same_rows(flag, record, {each.name: SetInfo.of(each) for each in sets})
    check_asking(sets, settings)
    started = time.monotonic()
    tokenizer = load_tokenizer(model)
    infos = {each.name: SetInfo.of(each, _tokens(each, tokenizer, settings)) for each in sets}
    for flag, record in records.items():
        same_rows(flag, record, infos)
    loaded = load_model(model)
    subject = ModelUnderTest(
        loaded.model.to(choose_device(settings.device)), tokenizer, sets, settings, progress
    )
    metrics = wanted(settings)
    if reference is not None:
        subject.reference = _reference(reference, subject)
    measured = subject.measure(metrics)
    seconds = {}
    for check in settings.robustness:
        begun = time.monotonic()
        under = all_checks()[check].run(subject, metrics)
        seconds[check] = round(time.monotonic() - begun, 1)
        measured.columns |= under.columns
        measured.reasons |= under.reasons
    told, made, doubts = _provenance(
        model, name, handoff, reference, retain_record, before, settings, progress
    )
    found = Record(
        {**told, "mpu": __version__},
        {
            **_told(settings, subject),
            "seconds": round(time.monotonic() - started, 1),
            "seconds_of_checks": seconds,
        },
        infos,
        measured.columns,
        {**measured.reasons, **_not_asked(settings)},
        written=measured.written,
        made=made,
    )
    found = summarise(found, retain_record, settings.metrics, settings.seed, settings.resamples)
    if before is not None and "relearning" in settings.robustness:
        found = with_steps(found, before)
    return Evaluation(
        found, (*_notes(subject, seconds), *remarks(found)), (*loaded.remarks, *doubts)
    )


def _provenance(
    model: Path,
    name: str | None,
    handoff: Mapping[str, str] | None,
    reference: Path | None,
    retain_record: Record | None,
    before: Record | None,
    settings: EvalSettings,
    progress: Progress | None,
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """What the record says of the model and of the run, and what is in doubt."""
    if not this_process().is_first:  # the others keep no record
        return {"name": name or model.resolve().name}, {}, ()
    origin, doubt = published_as(model) if handoff is None else (handoff, None)
    beside = {
        what: record.model if record else None
        for what, record in (("retain_record", retain_record), ("before", before))
    }
    beside["reference"] = identity(reference, None, progress) if reference else None
    told = {**identity(model, name, progress), "handoff": origin}
    return told, circumstances(choose_device(settings.device), **beside), (doubt,) if doubt else ()


def _notes(subject: ModelUnderTest, seconds: Mapping[str, float]) -> list[str]:
    cut = len(set(subject.encoder.cut))
    notes = (
        [
            f"{cut} plain texts are longer than {subject.encoder.max_length} tokens: their"
            " beginning is measured"
        ]
        if cut
        else []
    )
    for each_name, tokens in subject.new_tokens.items():
        if tokens < subject.asking[each_name].tokens:
            notes.append(
                f"{each_name}: the model wrote at most {tokens} tokens: its context ends there"
                " after the longest question"
            )
    if any(
        each.role == KNOWLEDGE and not each.examples
        for each in subject.sets
        if each.name in subject.new_tokens
    ):
        notes.append(
            "the knowledge questions were asked without examples; MUSE puts ten before each"
            " (--few-shot FILE)"
        )
    long = {check: spent for check, spent in seconds.items() if spent >= _WORTH_TELLING}
    if long:
        notes.append(
            "the checks took "
            + ", ".join(f"{check} {spent:.0f} s" for check, spent in long.items())
        )
    return notes


def _tokens(each: QuestionSet, tokenizer: Any, settings: EvalSettings) -> str:
    """Digest of the rows as tokens.

    Of a set that is asked as MUSE asks, of its prompts as they are.
    """
    how = asking(each, settings)
    asked = [(question.row, how.text(question.row)) for question in each.questions]
    rows = (row if text is None else Row(row.where, text=text) for row, text in asked)
    return tokens_digest(encode_whole(row, tokenizer, settings.prompting) for row in rows)


def check_sets(sets: Sequence[QuestionSet]) -> None:
    """Refuse sets that a record could not tell apart.

    Raises:
        UsageError: none, two of one name, or a name that means something else.
    """
    if not sets:
        raise UsageError("nothing to evaluate on", "give --forget, --retain or another set of rows")
    names = [each.name for each in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UsageError(f"two sets are called {twice}", "name them: --utility NAME=FILE")
    for each in sets:
        if each.name == MODEL or (each.name in ROLES and each.name != each.role):
            raise UsageError(
                f"a {each.role} set cannot be called {each.name}",
                f"name it: --{each.role} NAME=FILE",
            )


def wanted(settings: EvalSettings) -> list[RowMetric]:
    """The row metrics to measure.

    Those named, and those that the named model metrics are made of.
    """
    usual = [
        metric for metric in row_metrics().values() if settings.generate or not metric.generates
    ]
    if not settings.metrics:
        return usual
    named = {
        *settings.metrics,
        *(
            part
            for name in settings.metrics
            if name in model_metrics()
            for part in model_metrics()[name].uses
        ),
    }
    return [metric for metric in usual if metric.name in named]


def answer_scores(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int | None = None, batch_size: int = 8
) -> list[list[TokenScores]]:
    """What a model says of every row's answer; it is loaded once.

    Args:
        model: a model directory.
        sets: rows.
        max_length: tokens of a row at most; None = the model's context.
        batch_size: rows in a batch.
    """
    asked = [
        question_set(str(number), FORGET, [Question(row) for row in rows])
        for number, rows in enumerate(sets)
    ]
    subject = ModelUnderTest(
        load_model(model).model,
        load_tokenizer(model),
        asked,
        EvalSettings(max_length=max_length, batch_size=batch_size),
    )
    scores = subject.scores(
        asked, {each.name: [row_metrics()["answer_probability"]] for each in asked}
    )
    return [
        [scores[each.name, row]["answer"][0][1] for row in range(len(each.questions))]
        for each in asked
    ]


def answer_probabilities(
    model: Path, sets: Sequence[Sequence[Row]], max_length: int | None = None, batch_size: int = 8
) -> list[float]:
    """Mean answer probability of a model on each set of rows, between 0 and 1.

    The model is loaded once.
    """
    return [
        sum(map(probability, rows)) / len(rows)
        for rows in answer_scores(model, sets, max_length, batch_size)
    ]


def _reference(model: Path, subject: ModelUnderTest) -> dict[tuple[str, int], TokenScores]:
    """What another model says of the forget and holdout rows; it has its own tokenizer."""
    sets = [each for each in subject.sets if each.role in (FORGET, HOLDOUT)]
    other = ModelUnderTest(
        load_model(model).model.to(choose_device(subject.settings.device)),
        load_tokenizer(model),
        sets,
        subject.settings,
    )
    scores = other.scores(sets, {each.name: [row_metrics()["answer_probability"]] for each in sets})
    return {key: variants["answer"][0][1] for key, variants in scores.items()}


def _told(settings: EvalSettings, subject: ModelUnderTest) -> dict[str, Any]:
    return {
        "metrics": list(settings.metrics),
        "generate": settings.generate,
        "batch_size": settings.batch_size,
        "max_length": subject.encoder.max_length,
        "rouge": "unicode words",
        "asked": {
            name: subject.asking[name].told(tokens) for name, tokens in subject.new_tokens.items()
        },
        "samples": settings.samples,
        "temperature": settings.temperature,
        "relearn_rows": settings.relearn_rows,
        "relearn_steps": settings.relearn_steps,
        "relearn_rates": list(settings.relearn_rates),
        "robustness": list(settings.robustness),
        "resamples": settings.resamples,
        "seed": settings.seed,
        "prompting": settings.prompting.told(),
    }


def _not_asked(settings: EvalSettings) -> dict[tuple[str, str], str]:
    """Why metrics that need writing are missing where nothing was written."""
    if settings.generate:
        return {}
    named = wanted(replace(settings, generate=True))
    return {
        ("", metric.name): "needs generation (--no-generate)"
        for metric in named
        if metric.generates
    }
