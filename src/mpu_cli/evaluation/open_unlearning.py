"""Records in open-unlearning's layout.

`TOFU_EVAL.json` (rows) and `TOFU_SUMMARY.json` (means), written and read.

With a knowledge or verbatim set it is MUSE's evaluation, and the files are called `MUSE_…`, as
theirs are.

Read at commit d3d7cf9 (24 Dec 2025). What its evaluators need of another model's record is there:
`forget_truth_ratio` for forget quality, `mia_min_k` for privacy leakage. Differences that stay:
ours has no separate entry for each wrong answer, and extraction strength can be 0. Its code leaves
out each row's last token in the memorization metrics and the attacks, meaning the end mark, also of
plain texts, which have none: there it loses a word that ours counts (`LAST_TOKEN`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.errors import BadDataError
from mpu_cli.evaluation.metric import Array
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
from mpu_cli.evaluation.record import Record, SetInfo, plain_number

LAST_TOKEN = (
    "open-unlearning leaves out the last token of plain texts: its exact_memorization,"
    " extraction_strength and mia_* of them are of one token less"
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
_FORGET_ROWS = {
    "exact_memorization": "exact_memorization",
    "extraction_strength": "extraction_strength",
}
_ATTACKS = ("loss", "min_k", "min_k_plus_plus", "zlib", "reference")
_MODEL = {
    "forget_quality": "forget_quality",
    "model_utility": "model_utility",
    "privacy_leakage": "privleak",
}


def open_unlearning_files(record: Record, *, texts: bool) -> dict[str, Any]:
    """The content of its two files by name: rows and means by metric, and the means alone."""
    muse = any(info.role in (KNOWLEDGE, VERBATIM) for info in record.sets.values())
    found: dict[str, Any] = {}
    for (name, metric), theirs in _MUSE.items() if muse else ():
        if (name, metric) in record.columns:
            found[theirs] = _rows(
                record.columns[name, metric], record.values[name][metric]["value"], "rougeL_f1"
            )
            _put_texts(found[theirs], record, name, texts)
    for name, info in record.sets.items():
        for metric in (
            metric
            for metric in _ROWS
            if (name, metric) in record.columns and info.role != KNOWLEDGE
        ):
            if metric == "normalised_probability" and not info.multiple_choice:
                # theirs has it of multiple-choice questions only, and readers tell those by it
                continue
            _put(found, record, name, metric, texts)
        for metric, theirs in _FORGET_ROWS.items():
            if info.role == FORGET and (name, metric) in record.columns:
                found[theirs] = _rows(
                    record.columns[name, metric], record.values[name][metric]["value"]
                )
    model = record.values.get("model", {})
    for attack in _ATTACKS:
        if all((name, attack) in record.columns for name in (FORGET, HOLDOUT)):
            sides = {
                name: _rows(
                    record.columns[name, attack], float(record.columns[name, attack].mean())
                )
                for name in (FORGET, HOLDOUT)
            }
            area = model.get(f"membership_{attack}", {}).get("value")
            found[f"mia_{attack}"] = {**sides, "auc": area, "agg_value": area}
    found |= {
        theirs: {"agg_value": model[metric]["value"]}
        for metric, theirs in _MODEL.items()
        if metric in model
    }
    found = dict(sorted(found.items()))
    means = {
        name: entry["agg_value"] for name, entry in found.items() if entry["agg_value"] is not None
    }
    benchmark = "MUSE" if muse else "TOFU"
    return {f"{benchmark}_EVAL.json": found, f"{benchmark}_SUMMARY.json": means}


def _put(found: dict[str, Any], record: Record, name: str, metric: str, texts: bool) -> None:
    """Add one set's rows of one metric.

    Two of ours may share an entry of theirs (ROUGE's recall and F1).
    """
    theirs, key = _ROWS[metric]
    entry = found.setdefault(_name(name, theirs), {"agg_value": None, "value_by_index": {}})
    if metric != "knowledge_memorization_stemmed":
        entry["agg_value"] = (
            record.values.get(name, {})
            .get("truth_ratio" if metric == "ratio" else metric, {})
            .get("value")
        )
    for row, number in enumerate(record.columns[name, metric]):
        one = entry["value_by_index"].setdefault(str(row), {})
        one[key] = plain_number(number)
        if metric == "answer_probability":
            one["avg_loss"] = -math.log(number) if number > 0 else math.inf
    if metric == "rouge_recall":
        _put_texts(entry, record, name, texts)


def _put_texts(entry: dict[str, Any], record: Record, name: str, texts: bool) -> None:
    for row, one in entry["value_by_index"].items() if texts else ():
        if (name, int(row)) in record.written:
            one["generation"] = record.written[name, int(row)]


def read_open_unlearning(path: Path) -> Record:
    """Read an `…_EVAL.json`.

    Raises:
        BadDataError: it is not one, or broken.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadDataError(
            f"{path}: cannot be read as JSON ({type(error).__name__})",
            "give open-unlearning's …_EVAL.json",
        ) from None
    if not isinstance(content, dict) or not content:
        raise BadDataError(
            f"{path}: not open-unlearning's record of an evaluation", "give its …_EVAL.json"
        )
    columns = _columns(content, path)
    if not columns:
        raise BadDataError(
            f"{path}: none of open-unlearning's metrics is in it",
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
            found = columns[name, "ratio"]
            columns[name, "truth_ratio"] = closeness(found, info.role)
            columns[name, "truth_probability"] = 1 / (1 + found)
    return Record({"name": path.name, "by": "open-unlearning"}, {}, sets, columns)


def _columns(content: Mapping[str, Any], path: Path) -> dict[tuple[str, str], Array]:
    columns: dict[tuple[str, str], Array] = {}
    for name in _PREFIX:
        for metric, (theirs, key) in _ROWS.items():
            _take(columns, (name, metric), content.get(_name(name, theirs)), key, path)
    for place, theirs in _MUSE.items():
        _take(columns, place, content.get(theirs), "rougeL_f1", path)
    for metric, theirs in _FORGET_ROWS.items():
        _take(columns, (FORGET, metric), content.get(theirs), "score", path)
    for attack in _ATTACKS:
        sides = content.get(f"mia_{attack}")
        if isinstance(sides, Mapping):
            for side in (FORGET, HOLDOUT):
                _take(columns, (side, attack), sides.get(side), "score", path)
    return columns


def _name(set_name: str, theirs: str) -> str:
    prefix = _PREFIX.get(set_name, set_name)
    return (
        "forget_truth_ratio"
        if (prefix, theirs) == ("forget", "Truth_Ratio")
        else f"{prefix}_{theirs}"
    )


def _rows(values: Array, mean: float, key: str = "score") -> dict[str, Any]:
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
    except OverflowError:
        raise BadDataError(
            f"{path}: {place[0]} {place[1]}: a number without end",
            "the file was changed or cut short",
        ) from None
    except (TypeError, ValueError) as error:
        raise BadDataError(
            f"{path}: {place[0]} {place[1]}: {error}", "the file was changed or cut short"
        ) from None
    if np.isfinite(column).any():
        columns[place] = np.where(np.isfinite(column), column, np.nan)
