"""Do the metrics order models as they should? `python benchmarks/forgotten.py [--json]`.

Three models on the same rows: one that never saw the forget rows (retrained), one that knows them
(with), and one that unlearned them (unlearned). By default the demo's: the retrained one is made
here from the demo's base as the model was, on the retain rows alone, the unlearned one with `mpu
unlearn` (--method, --epochs, --rate). Given --retrained, --model and --unlearned, any others.
Printed: every metric of the three, the same in 8 and 4 bits, and the relearning curves on forget
rows that are not taught. Then the orders that must hold; exit 1 if one does not.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import describe, machine
from one_round import say, table
from slopes import ASSETS
from task import hold_out

from mpu_cli.cli.app import run
from mpu_cli.evaluation.evaluate import evaluate
from mpu_cli.evaluation.questions import FORGET, HOLDOUT, RETAIN, read_questions
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.settings import RELEARN_RATES, EvalSettings

NAMES = ("retrained", "with", "unlearned")
ORDERS = (
    # (what, set, metric, the models from low to high)
    (
        "the forget rows are known only by the model that saw them",
        "forget",
        "answer_probability",
        ("retrained", "with"),
    ),
    ("unlearning takes them away", "forget", "answer_probability", ("unlearned", "with")),
    ("word for word, too", "forget", "exact_memorization", ("unlearned", "with")),
    ("and what is written", "forget", "rouge_recall", ("unlearned", "with")),
    (
        "members are recognised in the model that saw them",
        "model",
        "membership_min_k",
        ("retrained", "with"),
    ),
    ("less so after unlearning", "model", "membership_min_k", ("unlearned", "with")),
    (
        "forget quality is lowest where nothing was forgotten",
        "model",
        "forget_quality",
        ("with", "retrained"),
    ),
    ("unlearning costs utility", "retain", "answer_probability", ("unlearned", "with")),
)


def retrain(work: Path, retain: Path) -> Path:
    """The demo's base, fine-tuned as the demo's model was, without the forget rows."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mpu_cli.demo.make_assets import save, tokenize, train

    model: Any = AutoModelForCausalLM.from_pretrained(ASSETS / "base")
    tokenizer: Any = AutoTokenizer.from_pretrained(ASSETS / "base")
    rows = [json.loads(line) for line in retain.read_text().splitlines()]
    pairs = [(f"{row['question']}\n", f"{row['answer']}{tokenizer.eos_token}") for row in rows]
    with contextlib.redirect_stdout(sys.stderr):
        train(model, tokenize(tokenizer, pairs), epochs=20, learning_rate=1e-3, whole=False)
        save(work / "retrained", model, tokenizer)
    return work / "retrained"


def unlearn(options: argparse.Namespace, work: Path) -> Path:
    """`mpu unlearn` on the model itself: the noise-free baseline."""
    out = work / "unlearned"
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard):
        code = run(
            [
                "--quiet",
                "unlearn",
                str(options.model),
                "--forget",
                str(options.forget),
                "--retain",
                str(options.retain),
                "--method",
                options.method,
                "--epochs",
                str(options.epochs),
                "--learning-rate",
                str(options.rate),
                "--optimizer",
                options.optimizer,
                "--batch-size",
                "8",
                "--out",
                str(out),
                "--json",
            ]
        )
    if code:
        sys.exit(f"mpu unlearn: {heard.getvalue().strip()}")
    return out


def measure(
    models: dict[str, Path], options: argparse.Namespace, unseen: Path
) -> dict[str, Record]:
    """The three records; the retrained one's is what forget quality and privacy leakage need."""
    files = [
        ("forget", FORGET, options.forget),
        ("retain", RETAIN, unseen),
        ("holdout", HOLDOUT, options.holdout),
    ]
    sets = [read_questions(name, role, path) for name, role, path in files if path is not None]
    settings = EvalSettings(
        robustness=("quantization", "relearning"),
        max_new_tokens=options.max_new_tokens,
        relearn_rows=10,
        relearn_steps=options.relearn_steps,
        relearn_rates=tuple(options.relearn_rate),
        device="cpu",
    )
    records: dict[str, Record] = {}
    for name in NAMES:
        say(f"evaluating {name}")
        found = evaluate(
            models[name],
            sets,
            settings,
            retain_record=records.get("retrained"),
            before=records.get("with"),
        )
        records[name] = found.record
    # Its own record stands in for a second retraining: the best that these two numbers can be.
    again = evaluate(
        models["retrained"],
        sets,
        settings,
        retain_record=records["retrained"],
        before=records["with"],
    )
    return records | {"retrained": again.record}


def verdicts(records: dict[str, Record]) -> list[tuple[str, bool]]:
    """Each order, and whether it holds; those whose metric is missing are left out."""
    found = []
    for what, owner, metric, names in ORDERS:
        values = [records[name].values.get(owner, {}).get(metric) for name in names]
        if all(values):
            numbers = [value["value"] for value in values]
            found.append(
                (
                    f"{what} ({owner} {metric}: {' < '.join(names)})",
                    numbers == sorted(numbers) and len(set(numbers)) > 1,
                )
            )
    return found


def report(records: dict[str, Record]) -> None:
    """Print every number of the three side by side."""
    rows = [["", "metric", *NAMES]]
    keys = list(
        dict.fromkeys(
            (owner, metric)
            for name in NAMES
            for owner, metrics in records[name].values.items()
            for metric in metrics
        )
    )
    for owner, metric in keys:
        cells = []
        for name in NAMES:
            one = records[name].values.get(owner, {}).get(metric)
            interval = f" [{one['low']:.3f}, {one['high']:.3f}]" if one and "low" in one else ""
            cells.append(f"{one['value']:.3f}{interval}" if one else "–")
        rows.append([owner, metric, *cells])
    print(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ASSETS / "model")
    parser.add_argument("--retrained", type=Path, help="default: made here, from the demo's base")
    parser.add_argument("--unlearned", type=Path, help="default: made here")
    parser.add_argument("--forget", type=Path, default=ASSETS / "forget.jsonl")
    parser.add_argument("--retain", type=Path, default=ASSETS / "retain.jsonl")
    parser.add_argument("--holdout", type=Path, default=ASSETS / "holdout.jsonl")
    parser.add_argument("--method", default="NPO")
    parser.add_argument("--optimizer", default="adafactor")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-4)
    parser.add_argument("--relearn-steps", type=int, default=16)
    parser.add_argument("--relearn-rate", type=float, nargs="+", default=list(RELEARN_RATES))
    parser.add_argument("--max-new-tokens", type=int, default=32)
    parser.add_argument(
        "--work", type=Path, help="where models are made and kept (default: a temporary directory)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with contextlib.ExitStack() as stack:
        work = options.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="mpu-forgotten-"))
        )
        work.mkdir(parents=True, exist_ok=True)
        _, unseen = hold_out(
            options.retain, 80, work
        )  # 80 retained rows are enough to see the cost
        models = {"with": options.model}
        models["retrained"] = options.retrained or (
            work / "retrained" if (work / "retrained").exists() else retrain(work, options.retain)
        )
        models["unlearned"] = options.unlearned or (
            work / "unlearned" if (work / "unlearned").exists() else unlearn(options, work)
        )
        records = measure(models, options, unseen)
    held = verdicts(records)
    if options.json:
        print(
            json.dumps(
                {
                    "machine": machine(),
                    "records": {name: records[name].summary() for name in NAMES},
                    "orders": held,
                }
            )
        )
    else:
        print(describe(machine()))
        report(records)
        for what, holds in held:
            print("holds" if holds else "DOES NOT HOLD", what)
    if not all(holds for _, holds in held):
        sys.exit(1)


if __name__ == "__main__":
    main()
