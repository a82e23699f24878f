"""How a copy behaves: its distance to θ in answers, beside the base's. It only scores.

An attacker who wants what the model does, not its weights, needs no attack: it runs the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.errors import BadModelError
from mpu_cli.modeling.load import load_model
from mpu_cli.modeling.logprobs import in_evaluation, labelled_predictions, token_counts

MOST_NUMBERS = 2**26
"""The most log-probabilities of θ to keep: 256 MiB. Then one model at a time is in memory."""
_BATCH = 4
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a model's answers are from θ's."""

    kl: float
    """KL(θ ‖ model), mean over the tokens, nats."""
    agreement: float
    """The share of tokens for which both have the same most probable token."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Of some copies of one θ."""

    model: Path
    """θ's directory."""
    tokens: int
    base: Distance | None
    copies: Mapping[str, Distance]

    def ratio(self, copy: str) -> float | None:
        """KL(θ‖copy) / KL(θ‖base); None without a base, or if the base answers as θ does."""
        return self.copies[copy].kl / self.base.kl if self.base and self.base.kl > 0 else None

    @property
    def nearest(self) -> str:
        """The copy that is nearest to θ."""
        return min(self.copies, key=lambda name: self.copies[name].kl)


def behaviour(
    theta: Path,
    base: Path | None,
    copies: Mapping[str, Path],
    rows: Sequence[TokenizedRow],
    progress: Progress = lambda *_: None,
) -> Behaviour:
    """Run θ, then the base and every copy, on the labelled tokens of the rows.

    Args:
        theta: the model's directory.
        base: the base's.
        copies: directories by name.
        rows: texts; only as many are used as `MOST_NUMBERS` allows.
        progress: is called before each model.
    """
    others = {name: path for name, path in (("", base), *copies.items()) if path is not None}
    progress("running the models", 0, 1 + len(others))
    kept, right = _of_theta(theta, rows)
    tokens = sum(map(len, right))
    distances = {}
    for number, (name, path) in enumerate(others.items(), 1):
        progress("running the models", number, 1 + len(others))
        distances[name] = _distance(path, kept, right)
    return Behaviour(theta, tokens, distances.pop("", None), distances)


def _of_theta(
    theta: Path, rows: Sequence[TokenizedRow]
) -> tuple[list[TokenizedRow], list[torch.Tensor]]:
    """The rows that are used, and θ's log-probabilities of every batch, each (N, V) float32."""
    model = load_model(theta).model
    left = MOST_NUMBERS // model.get_input_embeddings().weight.shape[0]
    kept: list[TokenizedRow] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids)):
        left -= int(token_counts(torch.tensor([row.labels])))
        if left < 0 and kept:
            break
        kept.append(row)
    found: list[torch.Tensor] = []
    _run(model, kept, lambda logits: found.append(logits.log_softmax(-1)))
    return kept, found


def _distance(path: Path, rows: Sequence[TokenizedRow], right: Sequence[torch.Tensor]) -> Distance:
    model = load_model(path).model
    total, same, batches = 0.0, 0, iter(right)

    def take(logits: torch.Tensor) -> None:
        nonlocal total, same
        log_p, log_q = next(batches), logits.log_softmax(-1)
        if log_p.shape != log_q.shape:
            raise BadModelError(
                f"{path}: has {log_q.shape[-1]} tokens, and the model {log_p.shape[-1]}"
            )
        total += float(functional.kl_div(log_q, log_p, reduction="sum", log_target=True))
        same += int((log_p.argmax(-1) == log_q.argmax(-1)).sum())

    _run(model, rows, take)
    tokens = max(1, sum(map(len, right)))
    return Distance(max(0.0, total / tokens), same / tokens)


def _run(model: Any, rows: Sequence[TokenizedRow], take: Callable[[torch.Tensor], None]) -> None:
    """Call `take` on the logits (N, V) of each batch's labelled tokens, always in one order."""

    def batch(_: Sequence[int], tensors: dict[str, torch.Tensor]) -> None:
        take(labelled_predictions(model, tensors)[0])

    in_evaluation(model, rows, range(len(rows)), _BATCH, 0, batch)
