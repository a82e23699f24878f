"""A model, its data and a recipe, unlearned by `mpu unlearn` and measured.

Shared by benchmarks, not one itself.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.cli.app import run
from mpu_cli.data.rows import read_rows
from mpu_cli.evaluation.answer_scores import answer_probabilities


@dataclass(frozen=True)
class Task:
    """A model, its data, and the recipe that all optimizers share."""

    model: Path
    base: Path
    forget: Path
    retain: Path
    """Without the rows that are held out."""
    unseen: Path
    recipe: tuple[str, ...]
    """Options of `mpu unlearn`."""
    max_length: int

    @cached_property
    def context(self) -> str:
        """A digest of all that a result depends on besides its own key."""
        parts = [model_digest(open_checkpoint(path)) for path in (self.model, self.base)]
        parts += [
            sha256(path.read_bytes()).hexdigest()
            for path in (self.forget, self.retain, self.unseen)
        ]
        return sha256(json.dumps([*parts, *self.recipe]).encode()).hexdigest()[:16]

    @cached_property
    def trained(self) -> int:
        """Parameters that training moves: all but embeddings and head."""
        return sum(
            info.elements
            for info in open_checkpoint(self.model).tensors.values()
            if ".layers." in info.name or ".h." in info.name
        )

    def probabilities(self, model: Path) -> dict[str, float]:
        """Mean answer probability on the forget rows and on retained rows not in training."""
        forget, retain = answer_probabilities(
            model, [read_rows(path) for path in (self.forget, self.unseen)]
        )
        return {"forget": forget, "retain": retain}

    def unlearn(self, source: Path, out: Path, optimizer: str, rate: float, seed: int) -> Path:
        """`mpu unlearn` on a model or a handoff, in the same order of rows on both."""
        options = [
            "--round",
            "1",
            "--optimizer",
            optimizer,
            "--learning-rate",
            repr(rate),
            "--seed",
            str(seed),
            "--dtype",
            "float32",
        ]
        data = ["--forget", str(self.forget), "--retain", str(self.retain)]
        heard = io.StringIO()
        with contextlib.redirect_stdout(heard):
            code = run(
                [
                    "--quiet",
                    "unlearn",
                    str(source),
                    *data,
                    *self.recipe,
                    *options,
                    "--out",
                    str(out),
                    "--json",
                ]
            )
        if code:
            sys.exit(f"mpu unlearn with {optimizer}, rate {rate:g}: {heard.getvalue().strip()}")
        return out


def hold_out(retain: Path, count: int, work: Path) -> tuple[Path, Path]:
    """Two files below `work`.

    The rows of a JSON Lines file without `count` of them, evenly spread, and those.
    """
    # Not splitlines(), which cuts at U+2028 inside an answer.
    lines = [line for line in retain.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not 0 < count < len(lines):
        sys.exit(f"--held-out {count}: {retain} has {len(lines)} rows")
    chosen = {(2 * number + 1) * len(lines) // (2 * count) for number in range(count)}
    paths = work / "retain.jsonl", work / "unseen.jsonl"
    for path, out in zip(paths, (False, True), strict=True):
        path.write_text(
            "".join(line + "\n" for number, line in enumerate(lines) if (number in chosen) == out),
            encoding="utf-8",
        )
    return paths
