"""A directory like that of `mpu run`, with laws that a page must find again."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

COLUMNS = (
    *("run", "kind", "method", "data", "variant", "kappa", "copies", "seed", "draw", "rounds"),
    *("offset", "denoising", "reparam", "optimizer", "forget", "retain", "holdout", "error"),
    *("agreement", "one_copy", "all_copies", "model_digest"),
)
METHODS, KAPPAS, COPIES, SEEDS, ROUNDS = ("NPO", "GradDiff"), (0.01, 0.1), (1, 3), (1, 2, 3), 2
BEFORE, PLAIN = (0.96, 0.95), (0.2, 0.9)
"""Forget and retain of the model before and of runs without noise, about."""


def exponent(copies: int) -> int:
    """Of κ in the error."""
    return 1 if copies == 1 else 2


def make_run(out: Path) -> Path:
    """Write runs.csv, rounds.csv, plan.yaml and provenance.json."""
    out.mkdir(parents=True)
    chance = random.Random(1)
    runs = [_row("before", "", "", *BEFORE)]
    for method in METHODS:
        for seed in SEEDS:
            shift = 0.02 * chance.random()
            runs.append(_row("noise-free", method, seed, PLAIN[0] + shift, PLAIN[1] - shift))
            for kappa in KAPPAS:
                for copies in COPIES:
                    runs.append(
                        _row(
                            *(
                                "mpu",
                                method,
                                seed,
                                PLAIN[0] + shift + 0.1 * kappa,
                                PLAIN[1] - shift,
                            ),
                            error=kappa ** exponent(copies) * (1 + 0.01 * chance.random()),
                            kappa=kappa,
                            copies=copies,
                            draw=1,
                            offset=0.0,
                            one_copy=kappa,
                            all_copies=1e-7,
                        )
                    )
    _write(out / "runs.csv", COLUMNS, runs)
    rounds = [
        {**row, "round": number, "forget": BEFORE[0] + (row["forget"] - BEFORE[0]) * number / 2}
        for row in runs
        for number in (range(1, ROUNDS + 1) if row["method"] else [0])
    ]
    _write(out / "rounds.csv", ["round" if it == "rounds" else it for it in COLUMNS], rounds)
    (out / "plan.yaml").write_text("name: made\n# <script>alert(1)</script>\n")
    provenance = {
        "name": "made",
        "plan_sha256": "cd" * 32,
        "complete": True,
        "entropy": "prepared (origin: test)",
        "versions": {"mpu": "0.1.0", "torch": "2.13"},
        "sources": {"/home/somebody/model": "ef" * 32},
    }
    (out / "provenance.json").write_text(json.dumps(provenance))
    return out


def _row(kind: str, method: str, seed: object, forget: float, retain: float, **more: object):
    name = " ".join(str(it) for it in (kind, method, seed, *more.values()))
    row = dict.fromkeys(COLUMNS, "")
    row |= {"run": name, "kind": kind, "method": method, "data": "data", "seed": seed}
    row |= {"rounds": ROUNDS, "forget": forget, "retain": retain, "holdout": 0.5}
    return row | more


def _write(path: Path, columns: object, rows: list[dict[str, object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
