"""The tables of an experiment, from the answers of its finished steps.

runs.csv has one row for each run, rounds.csv one for each round, steps.csv one for each step. The
first two hold nothing that changes from one execution to the next (no times, no paths).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mpu_cli.experiment.runs import Experiment, ExperimentRun, RoundResults
from mpu_cli.experiment.store import Store

Row = dict[str, Any]
_FIRST = ("run", "kind", "method", "data", "variant")
_SETTINGS = ("kappa", "copies", "offset", "denoising", "reparam", "optimizer")
_NUMBERS = ("forget", "retain")
_LAST = ("error", "agreement", "one_copy", "all_copies", "model_digest")
_MAIN = "answer_probability"


class Results:
    """Reads the numbers of an experiment's runs."""

    def __init__(self, experiment: Experiment, keys: Mapping[str, str], store: Store) -> None:
        """`keys` has the keys of the steps by name; `store` has their answers."""
        self._runs = experiment.runs
        self._keys, self._store = keys, store
        self._answers: dict[str, dict[str, Any] | None] = {}

    def runs(self) -> list[Row]:
        """One row for each run whose steps are all done, in the order of the plan."""
        return [row for run in self._runs if (row := self._run(run)) is not None]

    def rounds(self) -> list[Row]:
        """One row for each round that is done."""
        rows = []
        for run in self._runs:
            for number in run.rounds:
                numbers = self._numbers(number)
                if numbers is not None:
                    rows.append({**_identity(run), "round": number.number, **numbers})
        return rows

    def axes(self) -> list[str]:
        """The names of the axes of all runs, in the order of the plan."""
        return list(dict.fromkeys(axis for run in self._runs for axis in run.axes))

    def _run(self, run: ExperimentRun) -> Row | None:
        numbers = [self._numbers(number) for number in run.rounds]
        leaks = self._answer(run.audit)
        if any(found is None for found in numbers) or (run.audit is not None and leaks is None):
            return None
        last = numbers[-1] or {}
        row = {**_identity(run), "rounds": run.rounds[-1].number, **last}
        if leaks is not None:
            row |= {name: leaks.get(name) for name in ("one_copy", "all_copies")}
        return row

    def _numbers(self, results: RoundResults) -> Row | None:
        evaluation = self._answer(results.eval)
        aggregate, error = self._answer(results.aggregate), self._answer(results.error)
        if (
            evaluation is None
            or (results.aggregate is not None and aggregate is None)
            or (results.error is not None and error is None)
        ):
            return None
        row = _evaluated(evaluation)
        if error is not None:
            row["error"] = error.get("error")
        if aggregate is not None:
            pairs = [value for value in aggregate.get("agreement") or () if value is not None]
            row["agreement"] = min(pairs, default=None)
        return row

    def _answer(self, step: str | None) -> dict[str, Any] | None:
        """The answer of a step; None if it is not done."""
        if step is None:
            return None
        key = self._keys[step]
        if key not in self._answers:
            done = self._store.finished(key)
            self._answers[key] = None if done is None else self._store.answer(key)
        return self._answers[key]


def _identity(run: ExperimentRun) -> Row:
    return {
        "run": run.name,
        "kind": run.kind,
        "method": run.method,
        "data": run.data,
        "variant": run.variant,
        **run.axes,
        "seed": run.seed,
        "draw": run.draw,
        **run.settings,
    }


def _evaluated(answer: Mapping[str, Any]) -> Row:
    """The values of an evaluation: forget and retain are mean answer probabilities."""
    row: Row = {}
    for owner, values in answer["values"].items():
        for metric, value in values.items():
            name = owner if metric == _MAIN else f"{owner}.{metric}"
            row[name] = value["value"] if isinstance(value, Mapping) else value
    row["model_digest"] = answer["model"]["digest"]
    return row


def table(rows: Sequence[Row], axes: Sequence[str], counter: str) -> str:
    """Rows as CSV: names, axes, settings and results, in an order that does not change.

    Floats are written so that they are read back to the last bit; an absent value is empty.

    Args:
        rows: values by column.
        axes: names of the plan's axes.
        counter: the column "rounds" or "round".
    """
    begin = (*_FIRST, *axes, "seed", "draw", counter, *_SETTINGS, *_NUMBERS)
    measured = sorted({name for row in rows for name in row} - {*begin, *_LAST})
    columns = dict.fromkeys((*begin, *measured, *_LAST))  # an axis may be a setting, too
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return repr(value)
        case tuple() | list():
            return ",".join(map(_cell, value))
        case _:
            return str(value)
