"""What `mpu aggregate` measures of honest updates, tensor by tensor: the limits are chosen from it.

`python benchmarks/update_gates.py WORK [--only NAME …]` on the demo's model. Each setting is one
round: perturb, unlearn (the demo's rows and its recipe, 5 epochs), aggregate without gates. Kept in
WORK/journal.jsonl; printed is the most extreme value of each gate's number.

Several settings take about a quarter of a minute each on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from journal import Journal

from mpu_cli.checkpoint.locate import Located
from mpu_cli.cli.app import run
from mpu_cli.client.methods import names
from mpu_cli.demo.demonstration import assets
from mpu_cli.server.aggregation.aggregate import AggregateResult, aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings

OPTIMIZERS = ("adamw", "adam-mini", "muon", "sgd")


@dataclass(frozen=True)
class Setting:
    """One honest round: options of `perturb` and of `unlearn`."""

    perturb: Mapping[str, object] = field(default_factory=dict)
    unlearn: tuple[str, ...] = ()


def settings() -> dict[str, Setting]:
    """All settings by name."""
    found = {}
    for method in names():
        for kappa in (0.03, 0.1):
            given = {"--kappa": kappa, "--copies": 2}
            found[f"{method} kappa={kappa}"] = Setting(given, ("--method", method))
    plain = ("--method", "GradDiff")
    for optimizer in OPTIMIZERS:
        # SGD's rate is that of benchmarks/slopes.py: its steps are not normalised.
        rate = ("--learning-rate", "0.1") if optimizer == "sgd" else ()
        given = {"--kappa": 0.1, "--copies": 2}
        found[f"{optimizer} kappa=0.1"] = Setting(given, (*plain, "--optimizer", optimizer, *rate))
    three = {"--kappa": 0.1, "--copies": 3}
    found |= {
        "three copies": Setting(three, plain),
        "extrapolation": Setting(three | {"--denoising": "extrapolation"}, plain),
        "kappa=0.01": Setting({"--kappa": 0.01, "--copies": 2}, plain),
        "kappa=0.3": Setting({"--kappa": 0.3, "--copies": 2}, plain),
        "kappa=1": Setting({"--kappa": 1.0, "--copies": 2}, plain),
        "offset": Setting({"--kappa": 0.1, "--copies": 2, "--offset": 0.1}, plain),
        "without T": Setting({"--kappa": 0.1, "--copies": 2, "--reparam": "none"}, plain),
        "LoRA": Setting(three, (*plain, "--lora-rank", "8")),
        "ten times the rate": Setting(three, (*plain, "--learning-rate", "1e-3")),
        "a tenth of the rate": Setting(three, (*plain, "--learning-rate", "1e-5")),
        "one step": Setting(three, (*plain, "--max-steps", "1")),
        "twenty epochs": Setting(three, (*plain, "--epochs", "20")),
        "bfloat16": Setting(three, (*plain, "--delta-dtype", "bfloat16")),
        "embeddings": Setting(
            three | {"--scope": "all", "--train-embeddings": None},
            (*plain, "--train-embeddings"),
        ),
    }
    return found


def quietly(*words: object) -> None:
    """Run an `mpu` command line in this process."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = run([str(word) for word in words])
    if code:
        sys.exit(f"mpu {' '.join(map(str, words))}: {heard.getvalue().strip()[-800:]}")


def one_round(setting: Setting, root: Path) -> AggregateResult:
    """Play both parties."""
    handoff, secret, update = root / "to-client", root / "server", root / "to-server"
    options = [word for pair in setting.perturb.items() for word in pair if word is not None]
    quietly(
        *("perturb", assets() / "model", "--base", assets() / "base", "--check", "none"),
        *("--handoff", handoff, "--secret", secret, *options),
    )
    rows = ("--forget", assets() / "forget.jsonl", "--retain", assets() / "retain.jsonl")
    quietly("unlearn", handoff, *rows, "--out", update, *setting.unlearn)
    without = AggregateSettings(
        dtype="float32",
        min_agreement=-1.0,
        max_relative_norm=inf,
        max_tensor_norm=inf,
        max_row_norm=inf,
        max_copy_ratio=inf,
        max_agreement_drop=inf,
    )
    return aggregate([update], secret, Located(assets() / "model", None), root / "next", without)


def tensors(result: AggregateResult) -> dict[str, Any]:
    """Everything that a gate may look at, by tensor."""
    (draw,), (given,) = result.statistics, result.updates.draws
    changed = result.changed
    assert changed is not None
    return {
        "model_square": changed.model_square,
        "weights": list(given.weights),
        "tensors": {
            name: {
                "square": changed.squares[name],
                "gram": item.gram,
                "moved": item.moved,
                "rows": item.rows,
                "row_squares": item.row_squares,
            }
            for name, item in draw.tensors.items()
        },
    }


def main() -> None:
    """Measure what is not in the journal yet."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("work", type=Path)
    made.add_argument("--only", nargs="+", default=list(settings()), metavar="NAME")
    asked = made.parse_args()
    torch.set_num_threads(1)
    asked.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(asked.work / "journal.jsonl")
    for name in asked.only:
        if not journal.has({"setting": name}):
            with tempfile.TemporaryDirectory(dir=asked.work) as folder:
                root, setting = Path(folder), settings()[name]
                journal.get({"setting": name}, lambda r=root, s=setting: tensors(one_round(s, r)))
            print(name, flush=True)


if __name__ == "__main__":
    main()
