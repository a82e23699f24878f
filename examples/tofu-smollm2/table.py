"""Prints the comparison.

forgetting, cost, and error of the update against the noise-free run, by setting..

Usage: python table.py WORK
"""

from __future__ import annotations

import argparse
import json
from math import sqrt
from pathlib import Path

import torch
from safetensors import safe_open

from mpu_cli.data.rows import read_rows
from mpu_cli.evaluation.answer_scores import answer_probabilities

SECRET = {"harmonic-0.1-round-2": "secret-harmonic-0.1"}


def update_error(theta: Path, noise_free: Path, model: Path) -> float:
    """‖Δ − Δ₀‖ / ‖Δ₀‖ over all tensors, Δ₀ the noise-free update."""
    difference = reference = 0.0
    with (
        safe_open(theta / "model.safetensors", "pt") as before,
        safe_open(noise_free / "model.safetensors", "pt") as free,
        safe_open(model / "model.safetensors", "pt") as after,
    ):
        for name in before.keys():  # noqa: SIM118 - safe_open is not a mapping
            start = before.get_tensor(name).double()
            meant = free.get_tensor(name).double() - start
            difference += float((after.get_tensor(name).double() - start - meant).square().sum())
            reference += float(meant.square().sum())
    return sqrt(difference / reference)


def exposure(work: Path, setting: str) -> tuple[str, str]:
    """What one copy and all copies leave unknown, at most, from the secret's records."""
    from mpu_cli.server.lineage.exposure import exposure_of
    from mpu_cli.server.lineage.models import Lineage

    lineage = Lineage.read(work / "server" / SECRET.get(setting, f"secret-{setting}"))
    draws = [record.draw for record in lineage.handoffs.values()]
    shown = exposure_of([record for record in lineage.handoffs.values() if record.draw == draws[0]])
    return f"{shown.one_copy:.3g}", f"{shown.all_copies:.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print the comparison table of the TOFU example.")
    parser.add_argument("work", type=Path, metavar="WORK")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    torch.set_num_threads(2)
    server, data = args.work / "server", args.work / "client" / "data"
    sets = [read_rows(data / name) for name in ("forget.jsonl", "retain-unseen.jsonl")]
    theta, free = server / "theta", args.work / "noise-free"
    rounds = sorted(path.parent for path in server.glob("*/model-next"))
    rows = []
    for name, model in [
        ("before", theta),
        ("noise-free", free),
        *((path.name, path / "model-next") for path in rounds),
    ]:
        forget, retain = answer_probabilities(model, sets)
        measured = name not in {"before", "noise-free"}
        error = (
            update_error(theta, free, model) if measured and not name.endswith("round-2") else None
        )
        one, everything = exposure(args.work, name) if measured else ("", "")
        rows.append(
            {
                "setting": name,
                "forget": forget,
                "retain": retain,
                "error": error,
                "one": one,
                "all": everything,
            }
        )
    print(
        f"{'setting':<26} {'forget':>7} {'retain':>7} {'error':>7} {'left ≤ one copy':>15}"
        f" {'all copies':>11}"
    )
    for row in rows:
        error = "" if row["error"] is None else f"{row['error']:.3f}"
        print(
            f"{row['setting']:<26} {row['forget']:>7.4f} {row['retain']:>7.4f} {error:>7}"
            f" {row['one']:>15} {row['all']:>11}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
