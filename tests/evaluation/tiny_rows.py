"""Rows of the tiny tokenizer's words, for models of `tiny_pair`; and token scores made by hand."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from mpu_cli.evaluation.metric import Evidence
from mpu_cli.evaluation.questions import FORGET, Question, QuestionSet, read_questions
from mpu_cli.evaluation.settings import EvalSettings
from mpu_cli.evaluation.token_scores import TokenScores

QUICK: dict[str, Any] = {"device": "cpu", "max_new_tokens": 8, "resamples": 1000, "batch_size": 4}


def words(rng: random.Random, least: int, most: int) -> str:
    """A few words."""
    return " ".join(f"w{rng.randrange(59)}" for _ in range(rng.randint(least, most)))


def rows(count: int, seed: int, *, choice: bool = False) -> list[dict[str, Any]]:
    """Rows of all lengths with TOFU's other wordings.

    `choice`: wrong answers beside the right one, no paraphrase.
    """
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        row: dict[str, Any] = {
            "question": f"{words(rng, 1, 6)} ?",
            "answer": f"{words(rng, 1, 9)} .",
        }
        row["perturbed_answer"] = [f"{words(rng, 1, 9)} ." for _ in range(rng.randint(1, 4))]
        if not choice:
            row["paraphrased_answer"] = f"{words(rng, 1, 9)} ."
            row["paraphrased_question"] = f"{words(rng, 1, 6)} ?"
        made.append(row)
    return made


def write(path: Path, values: list[Any]) -> Path:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def questions(path: Path, name: str, role: str, values: list[Any]) -> QuestionSet:
    """A set read from a new file in a directory."""
    return read_questions(name, role, write(path / f"{name}.jsonl", values))


def settings(**changes: Any) -> EvalSettings:
    """Quick settings on the CPU."""
    return EvalSettings(**{**QUICK, **changes})


def scores(
    log_p: list[float],
    top: list[int] | None = None,
    expected: list[float] | None = None,
    deviation: list[float] | None = None,
):
    """Token scores made by hand."""
    n = len(log_p)
    return TokenScores(
        np.array(log_p, dtype=np.float64),
        np.array(top if top is not None else [0] * n, dtype=bool),
        np.array(expected or [0.0] * n),
        np.array(deviation or [1.0] * n),
    )


def evidence(
    answer: TokenScores | None = None, *, role: str = FORGET, said: str | None = None, **more: Any
) -> Evidence:
    """A row with these scores.

    `right`, `wrong` are those of other wordings, `text` the answer, `said` what was written.
    """
    from mpu_cli.data.rows import Row

    found: dict[str, tuple[TokenScores, ...]] = {"answer": (answer or scores([-1.0]),)}
    if "right" in more:
        found["paraphrased answer"] = (more.pop("right"),)
    if "wrong" in more:
        found["perturbed answers"] = tuple(more.pop("wrong"))
    row = Row("rows.jsonl:1", prompt="q", answer=more.pop("text", "a"))
    return Evidence(Question(row), role, found, more.pop("ended", False), said, **more)
