"""What do RMU and LUNAR unlearn on the lower layers? `python benchmarks/withheld_unlearning.py`.

`--out FILE` measures, `--from FILE` only prints. RMU and LUNAR are trained with layer = L, which
gives the update of a cut handoff without noise (tests/client/test_methods_on_cuts.py: equal within
1e-6); NPO and GradDiff on the whole model. All take the same number of steps, with Adafactor. Each
has a ladder of strengths (LADDERS); every update is scaled by 0 to 2, as `mpu aggregate
--server-lr` does, until the answer probability of retained rows that are not trained on is the
target, --retain-at below θ's. The strength that then forgets most is measured.

Printed, as means over the seeds with 95 % t intervals: answer probability of forget rows; of
retained rows; of forget rows after 4-bit rounding; the highest after relearning (20 steps on ten
other forget rows, four rates); leak@1 and leak@8 (ROUGE recall of the best of so many sampled
answers). *More than NPO* is the difference of forget probability to NPO's, seed by seed.
LUNAR's unanswerable questions are about subjects that this script invents.

By default the demo's model and rows; --model, --forget, --retain for any others. FILE is a CSV, a
line a method, an L and a seed; an interrupted run goes on. What the cut hides: withholding.py.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measuring import describe, machine
from one_round import say, table
from slopes import ASSETS
from task import hold_out
from withholding_tables import Row, estimate, read, write

from mpu_cli.client import methods
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.questions import FORGET, RETAIN, read_questions
from mpu_cli.evaluation.relearned import PROBABILITY, WORST, means_of
from mpu_cli.evaluation.robustness import all_checks
from mpu_cli.evaluation.robustness.quantization import quantized
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer, quiet_transformers
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets

Update = dict[str, torch.Tensor]
WHOLE = -1
"""L of a method that trains the whole model."""
WHOLE_METHODS, CUT_METHODS = ("NPO", "GradDiff"), ("RMU", "LUNAR")
LADDERS: dict[str, tuple[tuple[float, tuple[str, ...]], ...]] = {
    "NPO": tuple((rate, ()) for rate in (1e-4, 2e-4, 4e-4, 8e-4)),
    "GradDiff": tuple((rate, ()) for rate in (1e-4, 2e-4, 4e-4, 8e-4)),
    "RMU": (
        (5e-4, ("c=20", "alpha=10")),
        (1e-3, ("c=5", "alpha=10")),
        (1e-3, ("c=20", "alpha=10")),
        (1e-3, ("c=20", "alpha=30")),
    ),
    "LUNAR": (
        (1e-2, ("c=8", "alpha=10")),
        (4e-2, ("c=2", "alpha=10")),
        (4e-2, ("c=8", "alpha=10")),
        (4e-2, ("c=8", "alpha=100")),
    ),
}
"""Learning rates and assignments, as many for each method, chosen on seed 0 of the demo's model."""
MEASURED = ("retain", "4-bit", "relearned", "leak@1", "leak@8")
KEYS = ("method", "layer", "seed")
FIELDS = (*KEYS, "strength", "scale", "forget", *MEASURED)
ASKED = (
    "In which city was {} born?",
    "What prize did {} win?",
    "Who is the mother of {}?",
    "What is the name of the first book of {}?",
)


def unanswerable(path: Path, count: int) -> Path:
    """Questions about invented subjects, as JSON Lines."""
    draw = random.Random("unanswerable")
    sounds = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu")

    def word() -> str:
        return "".join(draw.choices(sounds, k=3)).capitalize()

    rows = [
        {"question": ASKED[number % len(ASKED)].format(f"{word()} {word()}"), "answer": "Unknown."}
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Bench:
    """θ, its rows, and a model that updates of any scale are put into."""

    def __init__(self, options: argparse.Namespace, work: Path, seed: int) -> None:
        self.options, self.seed = options, seed
        retain, unseen = hold_out(options.retain, options.held_out, work)
        files = {FORGET: (FORGET, options.forget), RETAIN: (RETAIN, unseen)}
        self.sets = {name: read_questions(name, role, p) for name, (role, p) in files.items()}
        taught = [read_questions("taught", RETAIN, retain)]
        asked = [read_questions("unanswerable", RETAIN, unanswerable(work / "asked.jsonl", 40))]
        self.model = load_model(options.model).model
        self.theta = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        given = EvalSettings(
            seed=seed, max_new_tokens=options.max_new_tokens, samples=options.samples, device="cpu"
        )
        self.tested = ModelUnderTest(
            self.model, load_tokenizer(options.model), [self.sets[FORGET]], given
        )

        def encoded(sets: Sequence[Any]) -> list[TokenizedRow]:
            return [text.encoded for text in self.tested.encoder.texts(sets, ["answer"])]

        self.rows = TrainingSets(
            encoded([self.sets[FORGET]]), encoded(taught), 0, None, encoded(asked)
        )

    def mean(self, name: str) -> float:
        """The mean answer probability of a set."""
        measured = self.tested.measure([row_metrics()[PROBABILITY]], [self.sets[name]])
        return float(measured.columns[name, PROBABILITY].mean())

    def put(self, update: Update, scale: float) -> None:
        """Put θ + scale · update into the model."""
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                change = scale * update[name] if name in update else 0
                parameter.copy_(self.theta[name] + change)

    def update(self, name: str, rate: float, given: Sequence[str]) -> Update:
        """What a method changes."""
        method, model = methods.get(name), load_model(self.options.model).model
        values = method.parse(given)
        settings = TrainingSettings(
            epochs=self.options.epochs,
            learning_rate=rate,
            batch_size=self.options.batch_size,
            seed=self.seed,
            device="cpu",
        )
        loss, inputs = method.bind(values), method.inputs_with(values)
        train(model, loss, inputs, self.rows, settings, RunContext("cpu"))
        now = {key: p.detach() for key, p in model.named_parameters()}
        return {key: now[key] - old for key, old in self.theta.items() if not now[key].equal(old)}

    def at_target(self, update: Update, target: float) -> float:
        """The scale, at most 2, at which the retained rows' probability is the target."""
        low, high = 0.0, 2.0
        self.put(update, high)
        if self.mean(RETAIN) >= target:
            return high
        for _ in range(9):
            middle = (low + high) / 2
            self.put(update, middle)
            found = self.mean(RETAIN)
            if abs(found - target) <= self.options.within:
                return middle
            low, high = (middle, high) if found > target else (low, middle)
        return low

    def best(self, name: str, layer: int, target: float) -> Row:
        """The strength that forgets most at the target, measured."""
        found: list[tuple[float, float, str, Update]] = []
        for rate, given in LADDERS[name]:
            rate *= self.options.rate
            where = () if layer == WHOLE else (f"layer={layer}",)
            update = self.update(name, rate, (*given, *where))
            scale = self.at_target(update, target)
            self.put(update, scale)
            found.append((self.mean(FORGET), scale, " ".join((f"{rate:g}", *given)), update))
            say(f"  {name} {layer} {found[-1][2]}: scale {scale:.3f}, forget {found[-1][0]:.3f}")
        forget, scale, strength, update = min(found, key=lambda one: one[0])
        self.put(update, scale)
        row = {"strength": strength, "scale": scale, "forget": forget, "retain": self.mean(RETAIN)}
        with quantized(self.model, 4):
            row["4-bit"] = self.mean(FORGET)
        columns: dict[Any, Any] = {}
        for check in ("relearning", "leak"):
            columns |= all_checks()[check].run(self.tested, ()).columns
        means = means_of(columns, FORGET)
        row |= {f"leak@{k}": means[f"rouge_recall@leak-{k}"] for k in (1, self.options.samples)}
        return row | {"relearned": means[f"{PROBABILITY}@{WORST}"]}


def measure(options: argparse.Namespace, rows: list[Row]) -> None:
    """Add what is missing, and write it as it comes."""
    cells = [(name, WHOLE) for name in WHOLE_METHODS]
    cells += [(name, layer) for layer in options.layers for name in CUT_METHODS]
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(options, Path(folder), seed)
            target = bench.mean(RETAIN) - options.retain_at
            for cell in cells:
                if any((row["method"], row["layer"], row["seed"]) == (*cell, seed) for row in rows):
                    continue
                row = dict(zip(KEYS, (*cell, seed), strict=True))
                rows.append(row | bench.best(*cell, target))
                say(str(rows[-1]))
                write(options.out, rows, FIELDS)


def tables(rows: list[Row]) -> str:
    """Means over the seeds by method and L."""
    lines = [["method", "seeds", "forget", "more than NPO", *MEASURED]]
    npo = {row["seed"]: row["forget"] for row in rows if row["method"] == "NPO"}
    for name, layer in dict.fromkeys((row["method"], int(row["layer"])) for row in rows):
        mine = [row for row in rows if (row["method"], row["layer"]) == (name, layer)]
        more = [row["forget"] - npo[row["seed"]] for row in mine if row["seed"] in npo]
        cells = [[row["forget"] for row in mine], more]
        cells += [[row[field] for row in mine] for field in MEASURED]
        where = "" if layer == WHOLE else f", L = {layer}"
        lines.append([f"{name}{where}", str(len(mine)), *map(estimate, cells)])
    return table(lines)


def main() -> None:
    """Measure, unless --from is given, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    parser.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl")
    parser.add_argument("--held-out", type=int, default=40, help="retained rows not trained on")
    parser.add_argument("--layers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--retain-at", type=float, default=0.05, help="what retained rows may lose")
    parser.add_argument("--within", type=float, default=0.005, help="of that target")
    parser.add_argument("--rate", type=float, default=1.0, help="times every rate of the ladders")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=5)
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
