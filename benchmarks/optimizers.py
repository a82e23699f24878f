"""Which optimizer a client should take.

`python benchmarks/optimizers.py [--model DIR --base DIR --forget F --retain R] [--json]`.

Two studies, both with `mpu unlearn` as it is, by default on the demo's model and data:

forgetting  Answer probability on the forget rows and on retained rows that training never sees, by
optimizer, learning rate and
            seed (the data's order). Every optimizer gets the same number of rates, a factor --ratio
            apart around its centre:
            --rate (AdamW's), for muon × 5, for sgd × √(trained parameters), which makes its first
            step as long as AdamW's. Then the retained probability lost at equal forgetting, read
            off each seed's own curve between its rates, and the difference to AdamW's, seed by
            seed. A dash: the rates do not reach that level; move them with --centre.
error       ‖Δ̄ − Δ‖ / ‖Δ‖ of the aggregated update Δ̄ against the noise-free Δ, by κ, at offset 0:
one copy, harmonic
            denoising and extrapolation with three; median over noise draws and log-log slope. Each
            optimizer at that rate of the first study which forgets nearest to the middle --level;
            seed 0. The demo's model knows its rows by heart, so its loss is sharply curved: there
            the claims hold up to κ = .01 or so (docs/log.md), on a large model with a small task
            vector far beyond.

Means are given with 95 % t intervals over seeds. Every result is kept in WORK/optimizers.jsonl as
it comes: the same command goes on where it was cut, and other rates, seeds or κ only add to it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from intervals import shown
from journal import Journal
from measuring import describe, machine
from one_round import say, table
from optimizer_studies import REFERENCE, Study, errors, forgetting
from slopes import ASSETS
from task import Task, hold_out

from mpu_cli.training import optimizers


def report(result: dict[str, Any], levels: list[float], kappas: list[float]) -> None:
    """Print the tables."""
    print(describe(result["machine"]))
    found = result.get("forgetting")
    if found:
        before = found["before"]
        print(
            f"\nanswer probability before: forget {before['forget']:.3f}, retain (not trained on)"
            f" {before['retain']:.3f}"
        )
        rows = [["optimizer", "rate", "forget", "retain"]]
        for name, rates in found["runs"].items():
            rows += [
                [name, f"{rate:g}", shown(one["forget"]), shown(one["retain"])]
                for rate, one in rates.items()
            ]
        print(table(rows))
        for level in levels:
            print(
                f"\nretained probability lost where {level:.0%} of the forget probability is left"
                " (mean ± 95 %, seeds)"
            )
            rows = [["optimizer", "lost", "seeds", f"minus {REFERENCE}'s", "ratio"]]
            for name, one in found["at"][level].items():
                ratio = "–" if one["over reference"] is None else f"{one['over reference']:.2f}"
                rows.append(
                    [
                        name,
                        shown(one["lost"], 4),
                        f"{(one['lost'] or {'n': 0})['n']}",
                        shown(one["minus reference"], 4),
                        ratio,
                    ]
                )
            print(table(rows))
    found = result.get("error")
    if found:
        print(
            "\nerror of the aggregated update against the noise-free one (median of draws), and its"
            " slope"
        )
        rows = [
            [
                "optimizer",
                "rate",
                "update",
                "setting",
                *(f"κ={kappa:g}" for kappa in kappas),
                "slope",
            ]
        ]
        for name, one in found.items():
            for setting, row in one["settings"].items():
                slope = "–" if row["slope"] is None else f"{row['slope']:.2f}"
                cells = [f"{value:.1e}" for value in row["errors"]]
                rows.append(
                    [name, f"{one['rate']:g}", f"{one['update']:.2%}", setting, *cells, slope]
                )
        print(table(rows))


def by_name(text: str) -> tuple[str, float]:
    """`NAME=VALUE` of an option."""
    name, _, value = text.partition("=")
    if name not in optimizers.names():
        raise argparse.ArgumentTypeError(
            f"{text}: expected one of {', '.join(optimizers.names())}, then =RATE"
        )
    return name, float(value)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model",
        type=Path,
        default=ASSETS / "model",
        help="the model that knows the forget rows (default: the demo's)",
    )
    parser.add_argument(
        "--base",
        type=Path,
        default=ASSETS / "base",
        help="its public base, the measure of the noise",
    )
    parser.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    parser.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl", help="JSON Lines")
    parser.add_argument(
        "--unseen",
        type=Path,
        help="retained rows to measure on (default: --held-out rows of --retain)",
    )
    parser.add_argument(
        "--held-out",
        type=int,
        default=120,
        help="rows of --retain kept out of training (default 120)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="where results are kept and models made (default: a temporary directory)",
    )
    parser.add_argument(
        "--optimizers",
        nargs="+",
        choices=optimizers.names(),
        default=optimizers.names(),
        metavar="NAME",
    )
    parser.add_argument("--only", choices=("forgetting", "error"), help="one of the two studies")
    parser.add_argument(
        "--rate",
        type=float,
        default=1.5e-4,
        help="centre of the rates (default 1.5e-4, right for the demo's model)",
    )
    parser.add_argument(
        "--centre",
        type=by_name,
        nargs="+",
        default=[],
        metavar="NAME=RATE",
        help="another centre for an optimizer",
    )
    parser.add_argument("--rates", type=int, default=5, help="rates for each optimizer (default 5)")
    parser.add_argument(
        "--ratio", type=float, default=1.6, help="between neighbouring rates (default 1.6)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="orders of the data (default 3)")
    parser.add_argument(
        "--levels",
        type=float,
        nargs="+",
        default=[0.75, 0.5, 0.3],
        help="of the forget probability, to compare at",
    )
    parser.add_argument(
        "--kappas",
        type=float,
        nargs="+",
        default=[0.001, 0.003, 0.01],
        help="default .001 .003 .01; see above",
    )
    parser.add_argument("--draws", type=int, default=3, help="noise draws (default 3)")
    parser.add_argument(
        "--error-rate",
        type=by_name,
        nargs="+",
        default=[],
        metavar="NAME=RATE",
        help="rate of the second study",
    )
    parser.add_argument("--method", default="GradDiff")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument(
        "--precision", default="float32", help="float32 or bfloat16 (default float32)"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(arguments)
    options.centre, options.error_rate = dict(options.centre), dict(options.error_rate)
    return options


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"machine": machine()}
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if options.work is None:
            options.work = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="mpu-optimizers-"))
            )
            say("results are not kept: give --work to be able to go on after an interruption")
        options.work.mkdir(parents=True, exist_ok=True)
        retain, unseen = (
            (options.retain, options.unseen)
            if options.unseen
            else hold_out(options.retain, options.held_out, options.work)
        )
        recipe = {
            "method": options.method,
            "epochs": options.epochs,
            "batch-size": options.batch_size,
            "max-length": options.max_length,
            "device": options.device,
            "precision": options.precision,
        }
        flags = tuple(str(part) for name, value in recipe.items() for part in (f"--{name}", value))
        task = Task(
            options.model, options.base, options.forget, retain, unseen, flags, options.max_length
        )
        study = Study(task, options, Journal(options.work / "optimizers.jsonl"))
        if options.only != "error":
            found["forgetting"] = forgetting(study)
        if options.only != "forgetting":
            found["error"] = errors(study)
    found["wall_seconds"] = time.monotonic() - started
    if options.json:
        print(json.dumps(found))
    else:
        report(found, options.levels, options.kappas)


if __name__ == "__main__":
    main()
