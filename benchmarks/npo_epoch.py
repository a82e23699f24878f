"""Time and memory of one NPO epoch by mpu against the same epoch with transformers' Trainer.

    python benchmarks/npo_epoch.py --model THETA --forget FORGET --retain RETAIN    # default: the
    demo's, which shows only that it runs

Plainly: the loss asks a second model in memory, a deep copy of the first, as open-unlearning's NPO
does; mpu computes the reference once, inside the measured time. The rest is alike: rows, order,
padding, float32 weights (or bfloat16 autocast over them), frozen embeddings, fused AdamW, β = .1,
clipping at 1, no KV cache; the norms of all tensors' changes must agree in the end. Each run is a
process of its own, imports outside everything; the order alternates; medians. Wall time is the
epoch's, with Trainer's start-up and without loading (and the deep copy) on both sides; that with
loading is beside it. Memory: peak of RssAnon above the imports.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from measuring import Cost, describe, machine, measured
from one_round import say, table, verdict
from safetensors import safe_open
from torch.nn import functional
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from mpu_cli.client import methods
from mpu_cli.data.batches import collate, epoch_pairs, pad_id
from mpu_cli.data.encoding import encode_rows
from mpu_cli.data.rows import read_rows
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.tokenizer import load_tokenizer
from mpu_cli.training.run_context import RunContext
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.trainer import train
from mpu_cli.training.training_sets import TrainingSets

ASSETS = Path(__file__).parents[1] / "src" / "mpu_cli" / "demo" / "assets"
BARS = {"epoch": 0.9, "memory": 0.85}
BETA = 0.1


def row_nll(model: Any, rows: dict[str, torch.Tensor]) -> torch.Tensor:
    """NLL sums of rows, (B,), as anybody writes them."""
    logits, labels = (
        model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1],
        rows["labels"][:, 1:],
    )
    return (
        functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
        .view(labels.shape)
        .sum(dim=1)
    )


class PlainTrainer(Trainer):
    """NPO with the reference model beside the model."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """−(2/β) log σ(β (NLL − NLL_ref)) of the forget rows plus the retain rows' NLL."""
        with torch.no_grad():
            reference = row_nll(self.reference, inputs["forget"])
        margin = row_nll(model, inputs["forget"]) - reference
        return (
            -2 / BETA * functional.logsigmoid(BETA * margin).mean() + model(**inputs["retain"]).loss
        )


def plain(
    job: dict[str, Any], rows: dict[str, list[Any]], padding: int
) -> tuple[Any, Callable[[], Any]]:
    """The loaded model, and what trains it by `PlainTrainer`."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.config.use_cache = False
    reference = copy.deepcopy(model).eval().requires_grad_(False)
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        embedding.requires_grad_(False)
    pairs = [
        (rows["forget"][i], rows["retain"][j])
        for i, j in epoch_pairs(0, 0, *map(len, rows.values()))
        if j is not None
    ]

    def run() -> None:
        told = TrainingArguments(
            output_dir=job["work"],
            num_train_epochs=1,
            per_device_train_batch_size=job["batch_size"],
            learning_rate=job["rate"],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            bf16=job["precision"] == "bfloat16",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            train_sampling_strategy="sequential",
        )
        trainer = PlainTrainer(
            model,
            told,
            lambda ps: {name: collate([p[i] for p in ps], padding) for i, name in enumerate(rows)},
            pairs,
        )
        trainer.reference = reference
        trainer.train()

    return model, run


def ours(
    job: dict[str, Any], rows: dict[str, list[Any]], padding: int
) -> tuple[Any, Callable[[], Any]]:
    """The loaded model, and what trains it by mpu."""
    model, method = load_model(Path(job["model"])).model, methods.get("NPO")
    values = method.parse([f"beta={BETA}"])
    settings = TrainingSettings(
        epochs=1,
        optimizer="adamw",
        learning_rate=job["rate"],
        batch_size=job["batch_size"],
        precision=job["precision"],
        device="cpu",
    )
    return model, lambda: train(
        model,
        method.bind(values),
        method.inputs_with(values),
        TrainingSets(*rows.values(), padding),
        settings,
        RunContext("cpu"),
    )


def epoch(side: Callable[..., Any], job: dict[str, Any]) -> dict[str, Any]:
    """In the child: seconds of the epoch, and the norm of every trained tensor's change."""
    tokenizer = load_tokenizer(Path(job["model"]))
    files = {name: read_rows(Path(job[name]))[: job["rows"]] for name in ("forget", "retain")}
    rows = {
        name: encode_rows(part, tokenizer, job["max_length"]).rows for name, part in files.items()
    }
    model, run = side(job, rows, pad_id(tokenizer, len(tokenizer)))
    started = time.perf_counter()
    run()
    seconds = time.perf_counter() - started
    trained = [
        (name, value.detach()) for name, value in model.named_parameters() if value.requires_grad
    ]
    with safe_open(Path(job["model"]) / "model.safetensors", "pt") as file:
        return {
            "epoch": seconds,
            "moved": {
                name: float((value - file.get_tensor(name).float()).norm())
                for name, value in trained
            },
        }


def compare(job: dict[str, Any], repeats: int) -> dict[str, list[Cost]]:
    """Both sides' costs, the order alternated."""
    found: dict[str, list[Cost]] = {"ours": [], "plain": []}
    for number in range(repeats):
        for side in sorted(found, reverse=number % 2 == 1):
            say(f"repeat {number + 1} of {repeats}: {side} …")
            action = f"extra.update(npo_epoch.epoch(npo_epoch.{side}, json.loads(arguments[0])))"
            found[side].append(measured("import npo_epoch", action, json.dumps(job)))
    mine, theirs = (costs[0].extra["moved"] for costs in found.values())
    worst = (
        max(abs(mine[name] / theirs[name] - 1) for name in mine)
        if mine.keys() == theirs.keys()
        else float("inf")
    )
    if worst > 1e-3:  # another order of summation makes less
        sys.exit(
            "the two sides trained differently: the norms of a tensor's changes differ by"
            f" {worst:.1e}"
        )
    return found


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for file in ("model", "forget.jsonl", "retain.jsonl"):
        options.add_argument(
            f"--{Path(file).stem}", type=Path, default=ASSETS / file, help="default: the demo's"
        )
    for name, default in (
        ("rows", 40),
        ("batch-size", 8),
        ("max-length", 512),
        ("rate", 1e-5),
        ("repeats", 3),
    ):
        options.add_argument(
            f"--{name}", type=type(default), default=default, help=f"default {default}"
        )
    options.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16: autocast, on both sides",
    )
    options.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="for Trainer's empty directory",
    )
    options.add_argument("--json", action="store_true", help="print one JSON object")
    given, here = options.parse_args(), machine()
    with tempfile.TemporaryDirectory(prefix="mpu-benchmark-", dir=given.work) as root:
        job = {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(given).items()
        } | {"work": root}
        found = compare(job, given.repeats)
    numbers = {
        "epoch": lambda cost: cost.extra["epoch"],
        "with loading": lambda cost: cost.wall,
        "memory": lambda cost: cost.peak_mib,
    }
    middles = {
        side: {key: median(map(read, costs)) for key, read in numbers.items()}
        for side, costs in found.items()
    }
    ratios = {key: middles["ours"][key] / middles["plain"][key] for key in numbers}
    if given.json:
        runs = {
            side: [cost.row() | {"epoch_seconds": cost.extra["epoch"]} for cost in costs]
            for side, costs in found.items()
        }
        print(
            json.dumps(
                {
                    "machine": here,
                    "job": job,
                    "bars": BARS,
                    "runs": runs,
                    "medians": middles,
                    "ratios": ratios,
                }
            )
        )
        return
    print(f"{describe(here)}\n{given.model}, {given.precision}, medians of {given.repeats}")
    rows = [
        [side, *(f"{row[key]:.2f}" for key in numbers)]
        for side, row in [*middles.items(), ("ours / plain", ratios)]
    ]
    print(table([["", "epoch s", "with loading s", "peak MiB"], *rows]))
    print("; ".join(f"{name} {verdict(ratios[name], bar)}" for name, bar in BARS.items()))


if __name__ == "__main__":
    main()
