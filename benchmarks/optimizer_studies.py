"""The two studies of benchmarks/optimizers.py as plain data.

Forgetting against retain cost, and error against noise.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from intervals import interval, read_at
from journal import Journal
from one_round import say
from slopes import difference, error, norm, slope
from task import Task

from mpu_cli.checkpoint.dtypes import read_tensor
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.server.secrets.secret import PreparedEntropy

REFERENCE = "adamw"
SETTINGS = {
    "one copy": {"denoising": "harmonic", "copies": 1},
    "harmonic m=3": {"denoising": "harmonic", "copies": 3},
    "extrapolation m=3": {"denoising": "extrapolation", "copies": 3},
}


class Study:
    """What both studies share.

    noise-free runs by optimizer, rate and seed, from the journal where it has them.
    """

    def __init__(self, task: Task, options: argparse.Namespace, journal: Journal) -> None:
        """`options` are those of the command line."""
        self.task, self.options, self.journal = task, options, journal
        self.seeds = range(options.seeds)

    def key(self, study: str, **rest: Any) -> dict[str, Any]:
        """Under which the journal keeps a result."""
        return {"study": study, "task": self.task.context, **rest}

    def before(self) -> dict[str, float]:
        """The untrained model's probabilities."""
        return self.journal.get(
            self.key("before"), lambda: self.task.probabilities(self.task.model)
        )

    def rates(self, optimizer: str) -> list[float]:
        """The learning rates tried with an optimizer, rising."""
        count, ratio = self.options.rates, self.options.ratio
        # As long a first step as AdamW's: that of sgd has norm 1 where gradients are cut, and
        # Muon's a root mean square of 0.2.
        factor = {"sgd": self.task.trained**0.5, "muon": 5.0}.get(optimizer, 1.0)
        centre = self.options.centre.get(optimizer, self.options.rate * factor)
        return [
            float(f"{centre * ratio ** (number - (count - 1) / 2):.3g}") for number in range(count)
        ]

    def run(self, optimizer: str, rate: float, seed: int) -> dict[str, float]:
        """One noise-free run, measured."""

        def measure() -> dict[str, float]:
            started = time.monotonic()
            with tempfile.TemporaryDirectory(dir=self.options.work) as folder:
                model = self.task.unlearn(
                    self.task.model, Path(folder) / "model", optimizer, rate, seed
                )
                seconds = time.monotonic() - started
                found = self.task.probabilities(model)
            say(
                f"{optimizer} {rate:g} seed {seed}: forget {found['forget']:.3f}, retain"
                f" {found['retain']:.3f}, {seconds:.0f} s"
            )
            return {**found, "seconds": seconds}

        return self.journal.get(self._run_key(optimizer, rate, seed), measure)

    def middle_rate(self, optimizer: str) -> float:
        """The rate whose runs forget nearest to the middle level.

        Of those that the first study ran, else the centre.
        """
        rates, levels = self.rates(optimizer), sorted(self.options.levels)
        done = [
            rate
            for rate in rates
            if all(self.journal.has(self._run_key(optimizer, rate, seed)) for seed in self.seeds)
        ]
        wanted = levels[len(levels) // 2] * self.before()["forget"]
        means = {
            rate: fmean(self.run(optimizer, rate, seed)["forget"] for seed in self.seeds)
            for rate in done
        }
        return (
            min(means, key=lambda rate: abs(means[rate] - wanted))
            if means
            else rates[len(rates) // 2]
        )

    def _run_key(self, optimizer: str, rate: float, seed: int) -> dict[str, Any]:
        return self.key("forgetting", optimizer=optimizer, rate=rate, seed=seed)


def forgetting(study: Study) -> dict[str, Any]:
    """Probabilities by optimizer and rate, and retained probability lost by level of forgetting."""
    before, options = study.before(), study.options
    runs: dict[str, dict[float, list[dict[str, float]]]] = {
        name: {
            rate: [study.run(name, rate, seed) for seed in study.seeds]
            for rate in study.rates(name)
        }
        for name in options.optimizers
    }
    means = {
        name: {
            rate: {kind: interval([one[kind] for one in many]) for kind in ("forget", "retain")}
            for rate, many in rates.items()
        }
        for name, rates in runs.items()
    }
    at = {}
    for level in options.levels:
        lost = {
            name: [
                _lost(level, before, [many[seed] for many in runs[name].values()])
                for seed in study.seeds
            ]
            for name in runs
        }
        at[level] = {name: _compared(lost[name], lost.get(REFERENCE, [])) for name in runs}
    return {"before": before, "runs": means, "at": at}


def _lost(level: float, before: dict[str, float], runs: Sequence[dict[str, float]]) -> float | None:
    """Retained probability that one seed loses when `level` of its forget probability is left."""
    kept = read_at(
        level * before["forget"], [(run["forget"], run["retain"]) for run in (before, *runs)]
    )
    return None if kept is None else before["retain"] - kept


def _compared(mine: Sequence[float | None], theirs: Sequence[float | None]) -> dict[str, Any]:
    reached = [value for value in mine if value is not None]
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=False) if a is not None and b is not None]
    reference = sum(b for _, b in pairs)
    return {
        "lost": interval(reached) if reached else None,
        "minus reference": interval([a - b for a, b in pairs]) if pairs else None,
        "over reference": sum(a for a, _ in pairs) / reference if reference > 0 else None,
    }


def errors(study: Study) -> dict[str, Any]:
    """By optimizer: rate, size of the noise-free update, errors by setting and κ, slopes."""
    return {
        name: _errors(study, name, study.options.error_rate.get(name) or study.middle_rate(name))
        for name in study.options.optimizers
    }


def _errors(study: Study, optimizer: str, rate: float) -> dict[str, Any]:
    kappas, rows = study.options.kappas, {}
    task, key = study.task, study.key("update", optimizer=optimizer, rate=rate)
    with tempfile.TemporaryDirectory(dir=study.options.work) as folder:

        @cache
        def plain() -> dict[str, torch.Tensor]:
            return difference(
                task.unlearn(task.model, Path(folder) / "plain", optimizer, rate, 0), task.model
            )

        for name, setting in SETTINGS.items():
            measured = [
                [
                    _error(study, plain, optimizer, rate, {**setting, "kappa": kappa}, draw)
                    for draw in range(study.options.draws)
                ]
                for kappa in kappas
            ]
            medians = [median(draws) for draws in measured]
            rows[name] = {
                "errors": medians,
                "slope": slope(kappas, medians) if len(kappas) > 1 else None,
            }
        size = study.journal.get(key, lambda: {"relative": norm(plain()) / _size(task.model)})[
            "relative"
        ]
    return {"rate": rate, "update": size, "settings": rows}


def _error(
    study: Study,
    plain: Callable[[], Any],
    optimizer: str,
    rate: float,
    setting: dict[str, Any],
    draw: int,
) -> float:
    task, work = study.task, study.options.work

    def measure() -> dict[str, float]:
        def answer(handoff: Path, folder: Path) -> Path:
            return task.unlearn(handoff, folder / "to-server", optimizer, rate, 0)

        entropy = PreparedEntropy(sha256(f"optimizers benchmark, draw {draw}".encode()).digest())
        found = error(
            answer, task.model, task.base, plain(), entropy, work, dtype="float32", **setting
        )
        say(
            f"{optimizer} {rate:g} {setting['denoising']} m={setting['copies']}"
            f" κ={setting['kappa']:g} draw {draw}: {found:.2e}"
        )
        return {"error": found}

    return float(
        study.journal.get(
            study.key("error", optimizer=optimizer, rate=rate, draw=draw, **setting), measure
        )["error"]
    )


def _size(model: Path) -> float:
    return norm({name: read_tensor(info) for name, info in open_checkpoint(model).tensors.items()})
