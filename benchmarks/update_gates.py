"""What the gates of `mpu aggregate` measure of honest updates: their limits were chosen from it.

`python benchmarks/update_gates.py WORK [--only NAME …]`, on the demo's model and rows. Each setting
is one round: perturb, unlearn (5 epochs, every method's own defaults), aggregate with open gates.
Results are kept in WORK/journal.jsonl; a setting takes about ten seconds of one core. Printed is,
for each setting, the number of every gate that is nearest to its limit, and how many settings the
default limits refuse.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import torch
from journal import Journal
from one_round import table

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
            more = ("--set", "epsilon=0.1") if method == "PDU" else ()
            found[f"{method} kappa={kappa}"] = Setting(given, ("--method", method, *more))
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


def one_round(setting: Setting, root: Path, forget: Path) -> AggregateResult:
    """Play both parties."""
    handoff, secret, update = root / "to-client", root / "server", root / "to-server"
    options = [word for pair in setting.perturb.items() for word in pair if word is not None]
    quietly(
        *("perturb", assets() / "model", "--base", assets() / "base", "--check", "none"),
        *("--handoff", handoff, "--secret", secret, *options),
    )
    rows = ("--forget", forget, "--retain", assets() / "retain.jsonl")
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


def numbers(result: AggregateResult) -> dict[str, Any]:
    """The number of each gate that is nearest to its limit, and the tensor that has it."""
    return {item.gate: {"value": item.value, "tensor": item.tensor} for item in result.measured}


def refused(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The gates that would refuse these numbers at the default limits."""
    usual = AggregateSettings()
    limits = {
        "relative norm": usual.max_relative_norm,
        "ratio of copies": usual.max_copy_ratio,
        "ratio of a tensor": usual.max_copy_ratio,
        "tensor norm": usual.max_tensor_norm,
        "row norm": usual.max_row_norm,
        "agreement of a tensor": usual.max_agreement_drop,
    }
    gates = [
        gate for gate, limit in limits.items() if found.get(gate, {"value": 0})["value"] > limit
    ]
    return [*gates, *(["agreement"] if found["agreement"]["value"] < usual.min_agreement else [])]


def rows_with_alternates(work: Path) -> Path:
    """The demo's forget rows, each with a wrong answer, which DPO and AltPO need."""
    path = work / "forget.jsonl"
    if not path.exists():
        lines = (assets() / "forget.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        texts = [json.dumps(row | {"alternate": row["perturbed_answer"][0]}) for row in rows]
        path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


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
    forget = rows_with_alternates(asked.work)
    found = {}
    for name in asked.only:
        with tempfile.TemporaryDirectory(dir=asked.work) as folder:
            root, setting = Path(folder), settings()[name]
            found[name] = journal.get(
                {"setting": name}, lambda r=root, s=setting: numbers(one_round(s, r, forget))
            )
    gates = list(dict.fromkeys(gate for one in found.values() for gate in one))
    print(
        table(
            [("setting", *gates, "refused by")]
            + [
                (
                    name,
                    *(f"{one[gate]['value']:.3g}" if gate in one else "–" for gate in gates),
                    ", ".join(refused(one)) or "–",
                )
                for name, one in found.items()
            ]
        )
    )
    print(f"{sum(map(bool, map(refused, found.values())))} of {len(found)} settings refused")


if __name__ == "__main__":
    main()
