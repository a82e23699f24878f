"""What a setting leaves unknown, and what it costs, on a real model.

`python benchmarks/frontier.py --model THETA --base BASE --forget F --retain R --out rows.jsonl`

For each setting and each draw of noise a whole round is run by commands: perturb, unlearn,
aggregate, then `mpu audit handoff` on what was handed out. Beside them runs the same recipe without
noise. Printed are, by setting: what the best attack of the audit leaves unknown of the task vector
to a holder of one copy and of all, the error of the aggregated update against the noise-free one,
and the answer probability on forget and retained rows: medians and ranges over the draws.
Rows are added to --out as they are measured, so an interrupted run goes on where it stopped; a
second call only prints. Rounds run --jobs at a time, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

from measuring import describe, machine
from one_round import say

SETTINGS: dict[str, tuple[str, ...]] = {
    "paper: κ .01, m 2, rotation": ("--preset", "paper"),
    "κ .1, m 3": ("--kappa", "0.1"),
    "κ 1, m 3": ("--kappa", "1"),
    "κ 1, m 3, equal α": ("--kappa", "1", "--alphas", "1,1,1"),
    "κ 1, m 3, extrapolation": ("--kappa", "1", "--denoising", "extrapolation"),
    "offset .1, one copy": ("-m", "1", "--kappa", "0", "--offset", "0.1"),
    "offset 1, one copy": ("-m", "1", "--kappa", "0", "--offset", "1"),
    "offset 3, one copy": ("-m", "1", "--kappa", "0", "--offset", "3"),
    "κ 1, offset 1, m 3": ("--kappa", "1", "--offset", "1"),
}
"""Options of perturb. With --split the update is the same, and each holder has one copy."""
NOISE_FREE, BEFORE = "no noise", "before"


@dataclass(frozen=True, slots=True)
class Task:
    """What is unlearned, how, and where the files go."""

    model: Path
    base: Path
    forget: Path
    retain: Path
    recipe: Sequence[str]
    audit: Sequence[str]
    work: Path

    def mpu(self, *arguments: object) -> dict[str, Any]:
        """Run one command; its JSON. An audit that a gate refused has exit code 1 and its rows."""
        done = subprocess.run(
            [sys.executable, "-m", "mpu_cli", "-q", *map(str, arguments), "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        try:
            result: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            raise RuntimeError(f"mpu {arguments[0]}: {done.stderr[-800:]}") from None
        if done.returncode not in (0, 1) or (done.returncode and "rows" not in result):
            raise RuntimeError(f"mpu {arguments[0]}: {result.get('error')}")
        return result

    def unlearn(self, source: Path, out: Path) -> None:
        """The recipe on every copy of a handoff, or on the model itself."""
        rows = ("--forget", self.forget, "--retain", self.retain)
        self.mpu("unlearn", source, *rows, *self.recipe, "--round", 1, "--out", out)

    def result(self, model: Path) -> dict[str, float]:
        """What unlearning did: answer probabilities, and the error of the update."""
        from mpu_cli.data.rows import read_rows
        from mpu_cli.evaluation.answer_scores import answer_probabilities

        forget, retain = answer_probabilities(
            model, [read_rows(self.forget), read_rows(self.retain)]
        )
        row = {"forget": forget, "retain": retain}
        free = self.work / "noise-free"
        if model not in (self.model, free):
            row["error"] = update_error(self.model, free, model)
        return row

    def round(self, setting: str, draw: int) -> dict[str, Any]:
        """One round of one setting."""
        place = self.work / f"{list(SETTINGS).index(setting)}-{draw}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        handoff, secret, update, after = (
            place / name for name in ("to-client", "secret", "to-server", "model-next")
        )
        self.mpu(
            *("perturb", self.model, "--base", self.base, "--handoff", handoff),
            *("--new-lineage", secret, "--check", "none", *SETTINGS[setting]),
        )
        self.unlearn(handoff, update)
        done = self.mpu(
            *("aggregate", update, "--secret", secret, "--model", self.model, "--out", after),
            "--max-copy-ratio=inf",
            "--max-agreement-drop=inf",
            "--min-agreement=-1",  # noise that the gate would refuse has an error too
        )
        row = self.result(after) | self.leak(handoff, secret)
        row["agreement"] = done["agreement"][0]
        shutil.rmtree(place)
        return row

    def leak(self, handoff: Path, secret: Path) -> dict[str, Any]:
        """What the best attack leaves unknown to a holder of the best-known copy, and of all."""
        audited = self.mpu(
            *("audit", "handoff", handoff, "--secret", secret, "--model", self.model),
            *("--base", self.base, *self.audit),
        )
        rows = audited["rows"]
        one = min((row for row in rows if len(row["copies"]) == 1), key=lambda row: row["measured"])
        every = max(rows, key=lambda row: len(row["copies"]))
        return {
            "one_copy": one["measured"],
            "all_copies": every["measured"],
            "stated": every["stated"],
            "attack": every["nearest"],
        }


def update_error(theta: Path, noise_free: Path, model: Path) -> float:
    """‖Δ − Δ₀‖ / ‖Δ₀‖ over all tensors, Δ₀ the noise-free update."""
    from mpu_cli.checkpoint.dtypes import read_tensor
    from mpu_cli.checkpoint.model import open_checkpoint

    before, free, after = (open_checkpoint(path).tensors for path in (theta, noise_free, model))
    difference = reference = 0.0
    for name, info in before.items():
        meant = read_tensor(free[name]).double()
        reference += float((meant - read_tensor(info)).square().sum())
        difference += float((read_tensor(after[name]) - meant).square().sum())
    return sqrt(difference / reference)


class Rows:
    """The measured rows in a file, one JSON object a line; threads may add."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.all: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, setting: str, draw: int) -> bool:
        """Whether this round was measured before."""
        return any((row["setting"], row["draw"]) == (setting, draw) for row in self.all)

    def add(self, setting: str, draw: int, numbers: dict[str, Any]) -> None:
        """Write one row."""
        row = {"setting": setting, "draw": draw, **numbers}
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.all.append(row)
        say(f"{setting}, draw {draw}: {numbers}")


def measure(task: Task, rows: Rows, draws: int, jobs: int) -> None:
    """Run what was not measured yet."""
    task.work.mkdir(parents=True, exist_ok=True)
    if not rows.has(BEFORE, 1):
        rows.add(BEFORE, 1, task.result(task.model))
    free = task.work / "noise-free"
    if not rows.has(NOISE_FREE, 1) or not free.exists():
        shutil.rmtree(free, ignore_errors=True)
        task.unlearn(task.model, free)
        rows.add(NOISE_FREE, 1, task.result(free))

    def one(item: tuple[int, str]) -> None:
        draw, setting = item
        rows.add(setting, draw, task.round(setting, draw))

    todo = [(draw, name) for draw in range(1, draws + 1) for name in SETTINGS]
    with ThreadPoolExecutor(jobs) as pool:
        for _ in pool.map(one, [item for item in todo if not rows.has(item[1], item[0])]):
            pass


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table with one line for each setting: medians and ranges over its draws."""
    lines = [["setting", "draws", *NUMBERS.values()], ["---"] * (2 + len(NUMBERS))]
    for name in (BEFORE, NOISE_FREE, *SETTINGS):
        of_setting = [row for row in rows if row["setting"] == name]
        if of_setting:
            cells = [_range([row[key] for row in of_setting if key in row]) for key in NUMBERS]
            lines.append([name, str(len(of_setting)), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


NUMBERS = {
    "one_copy": "left to one copy",
    "all_copies": "to all copies",
    "stated": "stated",
    "error": "error",
    "forget": "forget",
    "retain": "retain",
}


def _range(values: Sequence[float]) -> str:
    if not values:
        return ""
    middle, low, high = (f"{value:.3g}" for value in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low}–{high})"


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "base", "forget", "retain", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="emptied as it goes")
    parser.add_argument("--only-print", action="store_true", help="measure nothing more")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--recipe",
        default="--method GradDiff --learning-rate 3e-5 --max-steps 5",
        help="of unlearn",
    )
    parser.add_argument("--audit", default="--layers 3", help="options of the audit")
    given = parser.parse_args()
    task = Task(
        given.model.absolute(),
        given.base.absolute(),
        given.forget.absolute(),
        given.retain.absolute(),
        given.recipe.split(),
        given.audit.split(),
        given.work.absolute(),
    )
    say(describe(machine()))
    rows = Rows(given.out)
    if not given.only_print:
        measure(task, rows, given.draws, given.jobs)
    print(summary(rows.all))


if __name__ == "__main__":
    main()
