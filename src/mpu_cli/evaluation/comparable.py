"""Check that two records are comparable: same rows, noted settings, common parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.prompt_format import describe_difference
from mpu_cli.evaluation.records.record import OTHER_TOKENS, Record

_LIMIT = "max_new_tokens"
_BY_ROUGE = ("rouge_recall", "knowledge_memorization", "verbatim_memorization")
_CHECK_SETTINGS = {
    "leak": ("samples", "temperature", "seed"),
    # relearn_rate: of an earlier mpu
    "relearning": ("relearn_rows", "relearn_steps", "relearn_rates", "relearn_rate", "seed"),
}


def notes_on_difference(first_name: str, first: Record, name: str, record: Record) -> list[str]:
    """Notes on how a record was made in another way than the first one.

    Raises:
        BadDataError: a set of the record has other rows, or the same rows as other tokens.
    """
    notes = []
    for set_name, ours in first.sets.items():
        theirs = record.sets.get(set_name)
        if theirs is None:
            notes.append(f"{name} has no {set_name} set: it is left out")
        elif not theirs.has_same_rows(ours):
            raise BadDataError(
                f"{name}: its {set_name} set is not that of {first_name} ({theirs.rows} rows,"
                f" digest {(theirs.digest or '–')[:12]}; {ours.rows} rows, digest"
                f" {(ours.digest or '–')[:12]})",
                "evaluate both models on the same rows",
            )
        elif not theirs.has_same_tokens(ours):
            raise BadDataError(
                f"{name}: its {set_name} set has the rows of {first_name}, but they became other"
                " tokens",
                _hint_on_tokens(first, record, set_name),
            )
    for setting in ("max_length", _LIMIT, *_settings_of_checks(first, record)):
        here, there = first.settings.get(setting), record.settings.get(setting)
        if here != there and setting in record.settings and setting in first.settings:
            notes.append(f"{name} was evaluated with {setting} {there}, {first_name} with {here}")
    return notes + _notes_on_prompts(first_name, first, name, record)


def _notes_on_prompts(first_name: str, first: Record, name: str, record: Record) -> list[str]:
    """Notes on other prompts and on other words for ROUGE; other tools' records do not say."""
    if not first.settings or not record.settings:
        return []
    notes = []
    scored = any(
        metric.startswith(_BY_ROUGE) for _, metric in first.columns.keys() & record.columns.keys()
    )
    if scored and first.settings.get("rouge") != record.settings.get("rouge"):
        notes.append(
            f"{name} and {first_name} were scored with different words for ROUGE: evaluate the"
            " older one again"
        )
    for set_name in (name for name in first.sets if name in record.sets):
        here, there = (_asked(made, set_name) for made in (first, record))
        if "asked" not in first.settings or "asked" not in record.settings:
            # an earlier mpu recorded the limit only
            here, there = (
                {key: asked[key] for key in asked if key == _LIMIT} for asked in (here, there)
            )
        if here and there and here != there:
            theirs, ours = describe_difference(there, here), describe_difference(here, there)
            notes.append(
                f"{name} was asked about {set_name} with {theirs}, {first_name} with {ours}"
            )
    return notes


def _asked(record: Record, set_name: str) -> dict[str, Any]:
    """The prompt format of a set; an earlier mpu had one limit for all sets."""
    if "asked" in record.settings:
        return dict((record.settings["asked"] or {}).get(set_name) or {})
    return {_LIMIT: record.settings[_LIMIT]} if record.settings.get(_LIMIT) is not None else {}


def _hint_on_tokens(first: Record, record: Record, set_name: str) -> str:
    """The likeliest cause of different tokens: different examples, if their digests differ."""
    digests = {_asked(made, set_name).get("examples_digest") for made in (first, record)}
    return (
        OTHER_TOKENS if len(digests) == 1 else "run mpu eval on both with the same --few-shot file"
    )


def _settings_of_checks(*records: Record) -> list[str]:
    """The settings that decide the numbers of the checks that all these records have."""
    run = set.intersection(*(set(record.settings.get("robustness") or ()) for record in records))
    return list(
        dict.fromkeys(
            setting
            for check, settings in _CHECK_SETTINGS.items()
            if check in run
            for setting in settings
        )
    )


def same_numbers(first: Record, other: Record) -> tuple[Record, Record]:
    """Both records with numbers for the same rows: one row's number alone gives no difference."""
    gaps = {
        key: np.isnan(values) | np.isnan(other.columns[key])
        for key, values in first.columns.items()
    }
    reasons = {**other.left_out, **first.left_out}

    def masked(record: Record) -> Record:
        columns = {
            key: np.where(gaps[key], np.nan, values) for key, values in record.columns.items()
        }
        return replace(record, columns=columns, left_out=reasons)

    return masked(first), masked(other)


def common_part(record: Record, other: Record) -> Record:
    """The record without sets and columns that the other one lacks.

    A set is multiple choice if it is so in either record.
    """
    columns = {key: values for key, values in record.columns.items() if key in other.columns}
    sets = {
        name: replace(
            info, multiple_choice=info.multiple_choice or other.sets[name].multiple_choice
        )
        for name, info in record.sets.items()
        if name in other.sets
    }
    return replace(record, columns=columns, sets=sets)
