"""Records in open-unlearning's layout, written and read.

`TOFU_EVAL.json` holds the rows and `TOFU_SUMMARY.json` the means. With a knowledge or verbatim set
it is MUSE's evaluation, and the files are called `MUSE_…`, as in open-unlearning.

Read at commit d3d7cf9 (24 Dec 2025). The files hold what its evaluators need of another model's
record: `forget_truth_ratio` for forget quality, `mia_min_k` for privacy leakage. Two differences
remain: there is no separate entry for each wrong answer, and extraction strength can be 0.
open-unlearning leaves out each row's last token in the memorization metrics and the attacks, on the
assumption that it is the end mark. Plain texts have no end mark, so it loses a word of them
(`LAST_TOKEN`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.checkpoint.read_file import RECORD_BYTES, read_file
from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.metrics.truth_ratio import closeness
from mpu_cli.evaluation.questions import (
    FORGET,
    HOLDOUT,
    KNOWLEDGE,
    RETAIN_KNOWLEDGE,
    ROLES,
    UTILITY,
    VERBATIM,
)
from mpu_cli.evaluation.records.record import Record, SetInfo, plain_number
from mpu_cli.evaluation.statistics import Array

LAST_TOKEN = (
    "open-unlearning leaves out the last token of plain texts, so its exact_memorization,"
    " extraction_strength and mia_* count one token less"
)
_PREFIX = {"forget": "forget", "retain": "retain", "real_authors": "ra", "world_facts": "wf"}
_ROWS = {
    # our metric: (their name after the set's prefix, the key of a row's number)
    "answer_probability": ("Q_A_Prob", "prob"),
    "normalised_probability": ("Q_A_Prob_normalised", "prob"),
    "rouge_recall": ("Q_A_ROUGE", "rougeL_recall"),
    "knowledge_memorization_stemmed": ("Q_A_ROUGE", "rougeL_f1"),
    "ratio": ("Truth_Ratio", "score"),
}
_MUSE = {
    # our (set, metric): their name, each row with rougeL_f1
    (KNOWLEDGE, "knowledge_memorization_stemmed"): "forget_knowmem_ROUGE",
    (VERBATIM, "verbatim_memorization_stemmed"): "forget_verbmem_ROUGE",
    (RETAIN_KNOWLEDGE, "knowledge_memorization_stemmed"): "retain_knowmem_ROUGE",
}
_FORGET_ROWS = ("exact_memorization", "extraction_strength")
_ATTACKS = ("loss", "min_k", "min_k_plus_plus", "zlib", "reference")
_MODEL = {
    "forget_quality": "forget_quality",
    "model_utility": "model_utility",
    "privacy_leakage": "privleak",
}


def open_unlearning_files(record: Record, *, texts: bool) -> dict[str, Any]:
    """The content of both files by name: rows and means by metric, and the means alone."""
    muse = any(info.role in (KNOWLEDGE, VERBATIM) for info in record.sets.values())
    entries: dict[str, Any] = {}

    def add(theirs: str, key: tuple[str, str], row_key: str) -> None:
        if key in record.columns:
            mean = record.values[key[0]][key[1]]["value"]
            entries[theirs] = _entry(record.columns[key], mean, row_key)

    for key, theirs in _MUSE.items() if muse else ():
        add(theirs, key, "rougeL_f1")
        if texts and theirs in entries:
            _add_texts(entries[theirs], record, key[0])
    for name, info in record.sets.items():
        if info.role != KNOWLEDGE:
            _add_question_rows(entries, record, name, texts)
        if info.role == FORGET:
            for metric in _FORGET_ROWS:
                add(metric, (name, metric), "score")
    _add_attacks(entries, record)
    model = record.values.get("model", {})
    entries |= {
        theirs: {"agg_value": model[metric]["value"]}
        for metric, theirs in _MODEL.items()
        if metric in model
    }
    entries = dict(sorted(entries.items()))
    means = {
        name: entry["agg_value"]
        for name, entry in entries.items()
        if entry["agg_value"] is not None
    }
    benchmark = "MUSE" if muse else "TOFU"
    return {f"{benchmark}_EVAL.json": entries, f"{benchmark}_SUMMARY.json": means}


def _add_attacks(entries: dict[str, Any], record: Record) -> None:
    model = record.values.get("model", {})
    for attack in _ATTACKS:
        columns = {name: record.columns.get((name, attack)) for name in (FORGET, HOLDOUT)}
        sides = {
            name: _entry(column, float(column.mean()), "score")
            for name, column in columns.items()
            if column is not None
        }
        if len(sides) == 2:
            area = model.get(f"membership_{attack}", {}).get("value")
            entries[f"mia_{attack}"] = {**sides, "auc": area, "agg_value": area}


def _add_question_rows(entries: dict[str, Any], record: Record, name: str, texts: bool) -> None:
    """Add one set's metrics of `_ROWS`; two of them may share an entry (ROUGE's recall and F1)."""
    for metric, (theirs, row_key) in _ROWS.items():
        column = record.columns.get((name, metric))
        if column is None or (
            # open-unlearning has it for multiple choice only, and readers tell such sets by it
            metric == "normalised_probability" and not record.sets[name].multiple_choice
        ):
            continue
        entry = entries.setdefault(
            _entry_name(name, theirs), {"agg_value": None, "value_by_index": {}}
        )
        if metric != "knowledge_memorization_stemmed":
            shown = "truth_ratio" if metric == "ratio" else metric
            entry["agg_value"] = record.values.get(name, {}).get(shown, {}).get("value")
        for row, number in enumerate(column):
            item = entry["value_by_index"].setdefault(str(row), {})
            item[row_key] = plain_number(number)
            if metric == "answer_probability":
                item["avg_loss"] = -math.log(number) if number > 0 else math.inf
        if metric == "rouge_recall" and texts:
            _add_texts(entry, record, name)


def _add_texts(entry: dict[str, Any], record: Record, name: str) -> None:
    for row, item in entry["value_by_index"].items():
        if (name, int(row)) in record.written:
            item["generation"] = record.written[name, int(row)]


def read_open_unlearning(path: Path) -> Record:
    """Read an `…_EVAL.json`.

    Raises:
        BadDataError: it is another file, or is broken.
    """
    try:
        content = json.loads(read_file(path, RECORD_BYTES, BadDataError))
    except (ValueError, RecursionError) as error:
        raise BadDataError(
            f"{path}: cannot be read as JSON ({type(error).__name__})",
            "give open-unlearning's …_EVAL.json",
        ) from None
    if not isinstance(content, dict) or not content:
        raise BadDataError(f"{path}: not a record of open-unlearning's", "give its …_EVAL.json")
    columns = _columns(content, path)
    if not columns:
        raise BadDataError(
            f"{path}: has none of open-unlearning's metrics by row",
            "give its …_EVAL.json, which has value_by_index",
        )
    sets: dict[str, SetInfo] = {}
    for (name, metric), values in columns.items():
        if name in sets and sets[name].rows != len(values):
            raise BadDataError(
                f"{path}: {metric} has {len(values)} {name} rows, other metrics have"
                f" {sets[name].rows}",
                "evaluate again",
            )
        choices = (name, "normalised_probability") in columns
        role = KNOWLEDGE if name == RETAIN_KNOWLEDGE else name if name in ROLES else UTILITY
        sets[name] = SetInfo(role, len(values), None, choices)
    for name, info in sets.items():
        if (name, "ratio") in columns:
            ratios = columns[name, "ratio"]
            columns[name, "truth_ratio"] = closeness(ratios, info.role)
            columns[name, "truth_probability"] = 1 / (1 + ratios)
    return Record({"name": path.name, "by": "open-unlearning"}, {}, sets, columns)


def _columns(content: Mapping[str, Any], path: Path) -> dict[tuple[str, str], Array]:
    """The columns of all known entries, by (set, metric)."""
    columns: dict[tuple[str, str], Array] = {}
    for name in _PREFIX:
        for metric, (theirs, key) in _ROWS.items():
            _take(columns, (name, metric), content.get(_entry_name(name, theirs)), key, path)
    for place, theirs in _MUSE.items():
        _take(columns, place, content.get(theirs), "rougeL_f1", path)
    for metric in _FORGET_ROWS:
        _take(columns, (FORGET, metric), content.get(metric), "score", path)
    for attack in _ATTACKS:
        sides = content.get(f"mia_{attack}")
        if isinstance(sides, Mapping):
            for side in (FORGET, HOLDOUT):
                _take(columns, (side, attack), sides.get(side), "score", path)
    return columns


def _entry_name(set_name: str, theirs: str) -> str:
    prefix = _PREFIX.get(set_name, set_name)
    return (
        "forget_truth_ratio"
        if (prefix, theirs) == ("forget", "Truth_Ratio")
        else f"{prefix}_{theirs}"
    )


def _entry(values: Array, mean: float, key: str) -> dict[str, Any]:
    return {
        "agg_value": mean,
        "value_by_index": {
            str(row): {key: plain_number(number)} for row, number in enumerate(values)
        },
    }


def _take(
    columns: dict[tuple[str, str], Array], place: tuple[str, str], entry: Any, key: str, path: Path
) -> None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("value_by_index"), Mapping):
        return
    rows = entry["value_by_index"]
    try:
        numbers = [rows[row][key] for row in sorted(rows, key=int)]
        column = np.array([math.nan if number is None else float(number) for number in numbers])
    except KeyError:
        return  # an older version without this number
    except (OverflowError, TypeError, ValueError) as error:
        reason = "a number too large" if isinstance(error, OverflowError) else error
        raise BadDataError(
            f"{path}: {place[0]} {place[1]}: {reason}", "the file was changed or cut short"
        ) from None
    if np.isfinite(column).any():
        columns[place] = np.where(np.isfinite(column), column, np.nan)
