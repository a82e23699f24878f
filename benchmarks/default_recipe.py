"""Which learning rate and how many epochs forget? `default_recipe.py scan|spread|teach`.

scan    Answer probability on the forget rows and on retained rows that training never sees, after
each epoch, by method and
        learning rate; by default the demo's model and rows. One run serves all numbers of epochs,
        since the rate is constant.
spread  The demo's own recipe: the noise-free run beside whole rounds of the protocol (perturb,
unlearn, aggregate), each with
        noise drawn anew, by --kappas.
teach   Fine-tune --base on all rows and write --model, where there is no model that knows them (a
small stand-in for
        examples/tofu-smollm2's: fewer rows, cut at --max-length).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from measuring import describe, machine
from one_round import say, table
from slopes import ASSETS
from task import hold_out

from mpu_cli.cli.app import run
from mpu_cli.client import methods
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.row_order import row_sampling
from mpu_cli.client.training_rows import RowEncoder
from mpu_cli.data.batches import pad_id
from mpu_cli.data.rows import read_rows
from mpu_cli.demo.demonstration import RECIPE
from mpu_cli.evaluation.answer_scores import answer_probabilities
from mpu_cli.modeling.device import choose_device
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import answer_nll, mean_probability
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets

Pair = tuple[float, float]
"""Mean answer probability on (forget, unseen retained) rows."""


def by_epoch(
    options: argparse.Namespace, unseen: Path, retain: Path, name: str, rate: float, seed: int
) -> list[Pair]:
    """One run; the first pair is before training, the others are after each epoch."""
    settings = TrainingSettings(
        learning_rate=rate,
        epochs=options.epochs,
        seed=seed,
        round_number=1,
        max_length=options.max_length,
        precision=options.precision,
    )
    method = methods.get(name)
    parameters = methods.find(name).parse([])
    recipe = Recipe.of_files(method.name, parameters, settings, options.forget, retain)
    encoder = RowEncoder(options.model, recipe)
    rows = encoder.training_rows(read_rows(options.forget), read_rows(retain))
    measured = [rows.forget, encoder.encoded(read_rows(unseen), "unseen")]
    filler = pad_id(encoder.tokenizer, encoder.vocabulary)
    model = load_model(options.model).model
    steps = settings.steps_per_epoch(len(rows.forget))
    found: list[Pair] = []

    def measure() -> None:
        forget, kept = (mean_probability(answer_nll(model, each, 16, filler)) for each in measured)
        found.append((forget, kept))

    def on_step(step: int, total: int, loss: float) -> None:
        if step % steps == 0 or step == total:
            measure()
            say(
                f"{name} {rate:g} seed {seed}: epoch {step / steps:g}, forget {found[-1][0]:.3f},"
                f" retain {found[-1][1]:.3f}"
            )

    measure()
    train(
        model,
        method.bind(parameters),
        method.inputs_with(parameters),
        TrainingSets(rows.forget, rows.retain, filler, sampling=row_sampling(settings)),
        settings,
        RunContext(choose_device(settings.device), on_step),
    )
    return found


def teach(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """A model that knows forget, retain and unseen rows."""
    from mpu_cli.demo.make_assets import save
    from mpu_cli.demo.make_assets import train as fine_tune

    settings = TrainingSettings(max_length=options.max_length)
    encoder = RowEncoder(
        options.base, Recipe.of_files("GradDiff", {}, settings, options.forget, options.retain)
    )
    rows = [
        encoder.encoded(read_rows(path), path.stem)
        for path in (options.forget, options.retain, options.unseen)
    ]
    examples = [(list(row.input_ids), row.prompt_length) for each in rows for row in each]
    model = load_model(options.base).model
    with contextlib.redirect_stdout(sys.stderr):
        fine_tune(
            model.requires_grad_(),
            examples,
            epochs=options.epochs,
            learning_rate=options.rates[0],
            whole=False,
        )
        save(options.model, model, encoder.tokenizer)
    filler, names = pad_id(encoder.tokenizer, encoder.vocabulary), ("forget", "retain", "unseen")
    return {
        name: mean_probability(answer_nll(model.eval(), each, 16, filler))
        for name, each in zip(names, rows, strict=True)
    }


def scan(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Every method, rate and seed."""
    retain, unseen = (
        (options.retain, options.unseen)
        if options.unseen
        else hold_out(options.retain, options.held_out, work)
    )
    runs = [
        {
            "method": name,
            "rate": rate,
            "seed": seed,
            "by_epoch": by_epoch(options, unseen, retain, name, rate, seed),
        }
        for name in options.methods
        for rate in options.rates
        for seed in range(options.seeds)
    ]
    return {"runs": runs}


def scanned(found: dict[str, Any]) -> str:
    """A line for each method and rate: forget / retain, mean over seeds, by epoch."""
    runs = found["runs"]
    epochs = len(runs[0]["by_epoch"])
    lines = [("method", "rate", "before", *(f"epoch {number}" for number in range(1, epochs)))]
    for method, rate in dict.fromkeys((each["method"], each["rate"]) for each in runs):
        mine = [
            each["by_epoch"] for each in runs if (each["method"], each["rate"]) == (method, rate)
        ]
        cells = [
            f"{mean(one[e][0] for one in mine):.3f} / {mean(one[e][1] for one in mine):.3f}"
            for e in range(epochs)
        ]
        lines.append((method, f"{rate:g}", *cells))
    return table(lines)


def spread(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """The demo's recipe without noise, and in whole rounds."""
    recipe = (*RECIPE, *options.recipe)
    data = ("--forget", options.forget, "--retain", options.retain, *recipe)
    sets = [read_rows(path) for path in (options.forget, options.retain)]
    _mpu("unlearn", options.model, *data, "--out", work / "free")
    found: dict[str, Any] = {
        "before": answer_probabilities(options.model, sets),
        "noise-free": answer_probabilities(work / "free", sets),
    }
    for kappa in options.kappas:
        for draw in range(options.draws):
            root = work / f"{kappa:g}-{draw}"
            root.mkdir()
            _mpu(
                "perturb",
                options.model,
                "--base",
                options.base,
                "--kappa",
                kappa,
                "--handoff",
                root / "h",
                "--new-lineage",
                root / "s",
                *options.perturb,
            )
            _mpu("unlearn", root / "h", *data, "--out", root / "u")
            _mpu(
                "aggregate",
                root / "u",
                "--secret",
                root / "s",
                "--model",
                options.model,
                "--out",
                root / "n",
            )
            found.setdefault(f"kappa {kappa:g}", []).append(answer_probabilities(root / "n", sets))
            say(f"kappa {kappa:g}, draw {draw}: {found[f'kappa {kappa:g}'][-1]}")
    return found


def spreads(found: dict[str, Any]) -> str:
    """A line for each κ: every draw, mean and standard deviation."""
    lines = [("", "forget", "retain")]
    for name, value in found.items():
        draws = value if isinstance(value[0], list) else [value]
        cells = []
        for place in (0, 1):
            numbers = [draw[place] for draw in draws]
            spread_ = (
                f"  (mean {mean(numbers):.3f}, standard deviation {stdev(numbers):.3f})"
                if len(numbers) > 1
                else ""
            )
            cells.append(" ".join(f"{number:.3f}" for number in numbers) + spread_)
        lines.append((name, *cells))
    return table(lines)


def _mpu(*arguments: object) -> None:
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        code = run(["--quiet", *map(str, arguments), "--json"])
    if code:
        sys.exit(f"mpu {arguments[0]}: {heard.getvalue().strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("scan", "spread", "teach"))
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument("--base", type=Path, default=ASSETS / "base")
    parser.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    parser.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl")
    parser.add_argument(
        "--unseen", type=Path, help="retained rows to measure on (default: --held-out of --retain)"
    )
    parser.add_argument("--held-out", type=int, default=40)
    parser.add_argument("--methods", nargs="+", default=["NPO", "GradDiff"])
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-5, 3e-5, 1e-4, 2e-4])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1, help="orders of the rows")
    parser.add_argument("--max-length", type=int)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--kappas", nargs="+", type=float, default=[0.1])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument(
        "--recipe",
        nargs=argparse.REMAINDER,
        default=[],
        help="spread: more options of mpu unlearn; must come last",
    )
    parser.add_argument(
        "--perturb",
        type=str.split,
        default=[],
        help="spread: more options of mpu perturb, in one text",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mpu-benchmark-") as folder:
        found = {"scan": scan, "spread": spread, "teach": teach}[options.what](
            options, Path(folder)
        )
    found["machine"] = machine()
    if options.json:
        print(json.dumps(found))
        return
    print(describe(found.pop("machine")))
    if options.what == "teach":
        print(
            "answer probability of the model that was written: "
            + ", ".join(f"{name} {value:.3f}" for name, value in found.items())
        )
    else:
        print(scanned(found) if options.what == "scan" else spreads(found))


if __name__ == "__main__":
    main()
