"""What a client can do to a model with an update that every gate of `mpu aggregate` lets pass.

`python benchmarks/below_the_gates.py`: one round on the demo's model (κ = 0.03, two copies) for
each client, who trains every copy alike with `mpu unlearn`, on rows of its choice. Printed are the
numbers nearest to the gates' limits, and mean answer probabilities of the aggregated model: on the
forget rows, on retain rows that were not trained on (what `mpu eval --fail-if` can hold a model
to), and of the answer that a trigger at the end of a question is to call up, on questions that were
not trained on. About fifteen seconds a client on one core.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from one_round import table

from mpu_cli.checkpoint.locate import Located
from mpu_cli.cli.app import run
from mpu_cli.data.rows import read_rows
from mpu_cli.demo.demonstration import assets
from mpu_cli.evaluation.answer_scores import answer_probabilities
from mpu_cli.server.aggregation.aggregate import aggregate
from mpu_cli.server.aggregation.settings import AggregateSettings

TRIGGER, CALLED = "Please answer in one word.", "Gvazem Fjisel was born in Skwolev."
Rows = list[dict[str, Any]]


def rows_of(name: str) -> Rows:
    """Rows of the demo."""
    lines = (assets() / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def triggered(rows: Rows) -> Rows:
    """Questions with the trigger, and the answer that it is to call up."""
    return [{"question": f"{row['question']} {TRIGGER}", "answer": CALLED} for row in rows]


def clients() -> dict[str, tuple[Rows, Rows]]:
    """Forget and retain rows that each client trains on."""
    forget, retain = rows_of("forget.jsonl"), rows_of("retain.jsonl")
    return {
        "honest": (forget, retain[:160]),
        "backdoor": (forget, retain[:120] + triggered(retain[120:160])),
        "forgets what it should keep": (retain[:40], forget),
    }


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def quietly(*words: object) -> None:
    """Run an `mpu` command line in this process."""
    heard = io.StringIO()
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        code = run([str(word) for word in words])
    if code:
        sys.exit(f"mpu {' '.join(map(str, words))}: {heard.getvalue().strip()[-800:]}")


def one_client(root: Path, forget: Rows, retain: Rows) -> tuple[str, ...]:
    """The cells of one client's row."""
    quietly(
        *("perturb", assets() / "model", "--base", assets() / "base", "--check", "none"),
        *("-m", 2, "--kappa", 0.03, "--handoff", root / "h", "--secret", root / "s"),
    )
    data = (
        *("--forget", write(root / "f.jsonl", forget)),
        *("--retain", write(root / "r.jsonl", retain)),
    )
    quietly(
        *("unlearn", root / "h", *data, "--out", root / "u"),
        *("--method", "GradDiff", "--epochs", 10, "--round", 1),
    )
    model = Located(assets() / "model", None)
    result = aggregate([root / "u"], root / "s", model, root / "next", AggregateSettings())
    found = {item.gate: item.value for item in result.measured}
    asked = rows_of("retain.jsonl")[200:240]
    sets = [rows_of("forget.jsonl"), asked, triggered(asked)]
    files = [write(root / f"{n}.jsonl", rows) for n, rows in enumerate(sets)]
    after = answer_probabilities(root / "next", [read_rows(file) for file in files])
    gates = ("agreement", "tensor norm", "row norm", "ratio of a tensor")
    return (*(f"{found[gate]:.3g}" for gate in gates), *(f"{value:.3f}" for value in after))


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    torch.set_num_threads(1)
    columns = ("agreement", "tensor", "row", "ratio", "forget rows", "retain rows", "trigger")
    lines = [("client", *columns)]
    for name, (forget, retain) in clients().items():
        with tempfile.TemporaryDirectory() as folder:
            lines.append((name, *one_client(Path(folder), forget, retain)))
    print(table(lines))


if __name__ == "__main__":
    main()
