"""Do copies pay as smoothing? Is what noisy copies unlearned harder to restore?

`python benchmarks/copies_as_smoothing.py --method NPO --out FILE`; `--from FILE` only prints.

On the demo's model, for each seed (of the noise, the order of the training rows and the choice of
the rows that are relearned): a noise-free run of 8 epochs; shorter ones of 5 and 7; and rounds with
noise κ of *one copy*, of three copies whose noise sums to zero (*zero-sum*: harmonic, equal α), and
of three with *independent* noise (three rounds of one copy, averaged). Each aggregated update is
scaled (`mpu aggregate --server-lr`) until the forget rows' answer probability is within 2 % of that
of the seed's noise-free run (scales up to 8), and then measured by `mpu eval`'s own checks. The
shorter runs show what scaling alone does.

Printed: means over the seeds with 95 % t intervals of the differences, seed by seed, to the
noise-free run; the same of three copies to one. * marks an interval that excludes 0 also with
Bonferroni's correction for all differences of its table. *half* is the first relearning step, at
any rate, that gives the forget rows that are not taught half of what they lost, linear between
measured steps (20, the last, if none does); *relearned* their highest answer probability; *90 %*
how many seeds regain nine tenths of the old one, mpu's `relearning_steps`. FILE is a CSV,
a line a model; an interrupted run goes on. About 20 minutes a method on one core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import describe, machine
from one_round import say
from slopes import ASSETS, difference
from smoothing_table import FREE, ONE, Row, read, scale_for, steps_to, tables, write
from task import Task, hold_out

from mpu_cli.checkpoint.locate import Located
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, RETAIN, read_questions
from mpu_cli.evaluation.relearned import PROBABILITY, RECOVERED, WORST, curves, means_of
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.robustness.quantization import quantized
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.statistics import Array
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer, quiet_transformers
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.publishing.perturb import Target, perturb
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.secret import PreparedEntropy

Update = Mapping[str, torch.Tensor]
RATE, KEYS = 1e-4, ("method", "seed", "kappa", "noise")
GATES = ("relative_norm", "tensor_norm", "row_norm", "copy_ratio", "agreement_drop")
WIDE: dict[str, Any] = {f"max_{name}": inf for name in GATES}
OPEN = AggregateSettings(dtype="float32", min_agreement=-1, **WIDE)
"""Whatever the noise did, it is measured."""


def round_of(task: Task, kappa: float, copies: int, seed: int, draw: int) -> Update:
    """The aggregated update of one whole round."""
    text = f"copies as smoothing, kappa {kappa:g}, {copies} copies, seed {seed}, draw {draw}"
    given = PerturbSettings(copies=copies, kappa=kappa, alphas=(1.0,) * copies, check="none")
    with tempfile.TemporaryDirectory() as folder:
        root, model = Path(folder), Located(task.model, None)
        target, base = Target(root / "to-client", root / "server"), Located(task.base, None)
        perturb(model, base, target, given, entropy=PreparedEntropy(sha256(text.encode()).digest()))
        update = task.unlearn(root / "to-client", root / "to-server", "adafactor", RATE, seed)
        aggregate([update], root / "server", model, root / "next", OPEN)
        return difference(root / "next", task.model)


def free(task: Task, seed: int, *options: str) -> Update:
    """The update of plain unlearning."""
    task = replace(task, recipe=(*task.recipe, *options))
    with tempfile.TemporaryDirectory() as folder:
        out = task.unlearn(task.model, Path(folder) / "next", "adafactor", RATE, seed)
        return difference(out, task.model)


def updates(
    task: Task, seed: int, kappas: Sequence[float], shorter: Sequence[int]
) -> Iterator[tuple[float, str, Update]]:
    """κ, the kind of noise, and the update; the noise-free one comes first."""
    yield 0.0, FREE, free(task, seed)
    for number in map(str, shorter):
        yield 0.0, f"{FREE}, {number} epochs", free(task, seed, "--epochs", number)
    for kappa in kappas:
        single = [round_of(task, kappa, 1, seed, draw) for draw in range(3)]
        yield kappa, ONE, single[0]
        mean = {name: torch.stack([each[name] for each in single]).mean(0) for name in single[0]}
        yield kappa, "three, independent", mean
        yield kappa, "three, zero-sum", round_of(task, kappa, 3, seed, 0)


class Bench:
    """The demo's model in memory, with an update of any scale, measured by `mpu eval`'s checks."""

    def __init__(self, task: Task, seed: int) -> None:
        self.model = load_model(task.model).model
        self.theta = {name: each.detach().clone() for name, each in self.model.named_parameters()}
        self.sets = {
            FORGET: read_questions(FORGET, FORGET, task.forget),
            RETAIN: read_questions(RETAIN, RETAIN, task.unseen),
        }
        given = EvalSettings(seed=seed, max_new_tokens=32, device="cpu")
        asked = (load_tokenizer(task.model), [self.sets[FORGET]], given)
        self.tested = ModelUnderTest(self.model, *asked)
        self.before = self.rows(FORGET)

    def rows(self, name: str) -> Array:
        """The answer probability of every row of a set."""
        measured = self.tested.measure([row_metrics()[PROBABILITY]], [self.sets[name]])
        return measured.columns[name, PROBABILITY]

    def forget_at(self, update: Update, scale: float) -> float:
        """Put θ + scale · update into the model; the mean answer probability of the forget rows."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(self.theta[name].double() + scale * update[name])
        return float(self.rows(FORGET).mean())

    def measure(self, update: Update, scale: float) -> dict[str, float]:
        """All numbers of one model."""
        row = {"scale": scale, "forget": self.forget_at(update, scale)}
        row["retain"] = float(self.rows(RETAIN).mean())
        with quantized(self.model, 4):
            row["4-bit"] = float(self.rows(FORGET).mean())
        columns: dict[tuple[str, str], Array] = {}
        for name in ("relearning", "leak"):
            columns |= all_checks()[name].run(self.tested, ()).columns
        means = means_of(columns, FORGET)
        row |= {f"leak@{k}": means[f"rouge_recall@leak-{k}"] for k in (1, 8)}
        row["relearned"] = means[f"{PROBABILITY}@{WORST}"]
        others = ~np.isnan(columns[FORGET, f"{PROBABILITY}@{WORST}"])
        before = float(self.before[others].mean())
        row["half"] = steps_to((before + means[f"{PROBABILITY}@relearned-0"]) / 2, curves(means))
        return row | {"90 %": float(row["relearned"] >= RECOVERED * before)}


def measure(options: argparse.Namespace, rows: list[Row]) -> None:
    """Add the rows of the seeds that are not complete, and write them as they come."""
    with tempfile.TemporaryDirectory() as folder:
        files = hold_out(ASSETS / "retain.jsonl", 40, Path(folder))
        paths = (ASSETS / "model", ASSETS / "base", ASSETS / "forget.jsonl", *files)
        task = Task(*paths, ("--method", options.method, "--epochs", "8"), 0)
        cells = 1 + len(options.shorter) + 3 * len(options.kappas)
        for seed in range(options.first_seed, options.first_seed + options.seeds):
            mine = (row for row in rows if (row["method"], row["seed"]) == (options.method, seed))
            known = [(row["kappa"], row["noise"]) for row in mine]
            if len(known) == cells:
                continue
            bench, target = Bench(task, seed), 0.0
            for kappa, noise, update in updates(task, seed, options.kappas, options.shorter):
                forget_at = partial(bench.forget_at, update)
                target = forget_at(1.0) if noise == FREE else target
                if (kappa, noise) not in known:
                    row: Row = dict(zip(KEYS, (options.method, seed, kappa, noise), strict=True))
                    scale = 1.0 if noise == FREE else scale_for(forget_at, target)
                    row |= {} if scale is None else bench.measure(update, scale)
                    rows.append(row)
                    known.append((kappa, noise))
                    say(f"{row}")
                    write(options.out, rows)
                if len(known) == cells:
                    break


def main() -> None:
    """Measure, unless --from is given, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", default="NPO", help="of mpu unlearn")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--kappas", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--shorter", type=int, nargs="*", default=[5, 7], help="epochs")
    files = parser.add_mutually_exclusive_group(required=True)
    files.add_argument("--out", type=Path, help="CSV to add to")
    files.add_argument("--from", dest="source", type=Path, help="CSV to print")
    options = parser.parse_args()
    rows = read(path) if (path := options.source or options.out).exists() else []
    if options.out:
        say(describe(machine()))
        torch.set_num_threads(1)
        quiet_transformers()
        measure(options, rows)
    print(tables(rows))


if __name__ == "__main__":
    main()
