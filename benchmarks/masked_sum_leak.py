"""What a server can still test for from the sum of masked updates, on the demo's model.

`python benchmarks/masked_sum_leak.py WORK [--seeds 0 1 2 3 4]`.

Each seed deals the twenty people whom the demo's model knows: two to forget for each of three
clients (40 rows each), four decoys (80 rows, neither forgotten nor trained on), ten to keep, which
all clients know. The recipe is the demo's (GradDiff, Adafactor, 8 epochs) on the model itself. The
server has the first client's update, or the sum of two or three clients' updates, as `mpu
aggregate` gets it from masked ones: `mpu mask` rounds entries to 3.7e-9 and the sum is exact
(`tests/server/test_masked_updates.py`), so plain updates are added here.

Areas under ROC curves of the attacks of `mpu audit update`: the first client's rows against decoys
(was this row forgotten by somebody?), and against the other members' rows (by whom?). Printed are
the means over the seeds with 95 % intervals of these means (Student's t over the seeds). Results
are kept in WORK/journal.jsonl. About 100 CPU seconds for each seed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from journal import Journal
from safetensors.torch import load_file
from scipy.stats import t as student
from update_leak import EPOCHS, MODEL, Deal, encoded, written

from mpu_cli.audit.update.area import area
from mpu_cli.audit.update.attacks import Machine
from mpu_cli.audit.update.membership import ATTACKS

CLIENTS = ("first", "second", "third")
PARTS = {**dict.fromkeys(CLIENTS, 2), "decoys": 4, "retain": 10}


def summed(deal: Deal, members: int) -> Path:
    """The model plus the sum of the first clients' updates."""
    before = load_file(MODEL / "model.safetensors")
    options = ("--method", "GradDiff", "--epochs", EPOCHS)
    total = {name: tensor.double() for name, tensor in before.items()}
    for client in CLIENTS[:members]:
        after = load_file(deal.unlearned(client, *options, forget=client) / "model.safetensors")
        for name, tensor in after.items():
            total[name] += tensor.double() - before[name].double()
    return written({name: it.float() for name, it in total.items()}, deal.directory / "sum")


def measure(deal: Deal, members: int) -> dict[str, Any]:
    """Areas of both attacks from the sum of `members` updates."""
    after = summed(deal, members)
    sets = {part: encoded(deal.file(part)) for part in (*CLIENTS[:members], "decoys")}
    ends = np.cumsum([len(part) for part in sets.values()])[:-1]
    rows = [row for part in sets.values() for row in part]
    machine, found = Machine("cpu", 0, lambda *_: None), {}
    for name, (attack, _) in ATTACKS.items():
        scores = dict(zip(sets, np.split(attack(MODEL, after, rows, machine), ends), strict=True))
        own, others = scores["first"], [scores[client] for client in CLIENTS[1:members]]
        found[f"{name} decoys"] = area(own, scores["decoys"]).value
        found[f"{name} others"] = area(own, np.concatenate(others)).value if others else None
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of areas, and its 95 % interval over the seeds, cut at 0 and 1."""
    middle = mean(values)
    half = (
        float(student.ppf(0.975, len(values) - 1)) * stdev(values) / sqrt(len(values))
        if len(values) > 1
        else float("nan")
    )
    return middle, max(0.0, middle - half), min(1.0, middle + half)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.work / "journal.jsonl")
    found: dict[int, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        deal = Deal.of(seed, options.work, PARTS)
        for members in range(1, len(CLIENTS) + 1):
            key = {"members": members, "seed": seed}
            found.setdefault(members, []).append(
                journal.get(key, lambda: measure(deal, members))  # noqa: B023 - called at once
            )
    if options.json:
        print(json.dumps(found))
        return
    print("| the server has the sum of | attack | against decoys | against the others' rows |")
    print("|---|---|---|---|")
    for members, results in found.items():
        for name, (_, words) in ATTACKS.items():
            cells = [
                "–"
                if results[0][f"{name} {what}"] is None
                else "{:.2f} ({:.2f} – {:.2f})".format(
                    *interval([one[f"{name} {what}"] for one in results])
                )
                for what in ("decoys", "others")
            ]
            print(f"| {members} | {words} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
