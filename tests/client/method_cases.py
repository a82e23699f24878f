"""Rows, settings that suit a tiny model, and plain numbers, for the tests of the methods."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch

from mpu_cli.client import methods
from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, TokenizedRow
from tiny_models import make_model

REQUIRED = {"PDU": ["epsilon=0.5"]}
"""Assignments without which a method does not start."""
LAYERS = 4
"""Enough for RMU to have a choice."""


def row(seed: int, length: int, prompt: int) -> TokenizedRow:
    """Random tokens, the first `prompt` of them unlabelled."""
    ids = tuple(
        torch.randint(5, 320, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    )
    return TokenizedRow(ids, (IGNORED,) * prompt + ids[prompt:])


def answered(question: TokenizedRow, seed: int, length: int) -> TokenizedRow:
    """The same prompt with another answer."""
    prompt, answer = question.input_ids[: question.prompt_length], row(seed, length, 0).input_ids
    return TokenizedRow(prompt + answer, (IGNORED,) * len(prompt) + answer)


FORGET = [row(1, 9, 4), row(2, 6, 2), row(3, 12, 9)]
RETAIN = [row(4, 7, 3), row(5, 14, 6), row(6, 5, 1)]
ALTERNATES = [answered(FORGET[0], 7, 3), answered(FORGET[1], 8, 6), answered(FORGET[2], 9, 2)]


def values_of(method: methods.MethodInfo, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The method's defaults, with what it requires and those of the changes that it knows."""
    known = {parameter.name for parameter in method.parameters}
    given = dict(assignment.split("=") for assignment in REQUIRED.get(method.name, []))
    given |= {name: value for name, value in (changes or {}).items() if name in known}
    return method.parse(f"{name}={value}" for name, value in given.items())


@dataclass
class Numbers:
    """What a model says of one row.

    Logits z (n, V) that predict the labelled tokens y (n,), and states h (m, D) of layer 1.
    """

    z: np.ndarray
    y: np.ndarray
    h: np.ndarray

    @property
    def log_p(self) -> np.ndarray:
        """Log-probabilities, (n, V)."""
        peak = self.z.max(-1, keepdims=True)
        return self.z - peak - np.log(np.exp(self.z - peak).sum(-1, keepdims=True))

    @property
    def nll(self) -> np.ndarray:
        """ℓ_t, (n,)."""
        return -self.log_p[np.arange(len(self.y)), self.y]


def numbers(model: Any, encoded_rows: list[TokenizedRow]) -> list[Numbers]:
    """Each row alone, without padding, in numpy."""
    found = []
    for encoded in encoded_rows:
        with torch.no_grad():
            output = model(torch.tensor([encoded.input_ids]), output_hidden_states=True)
        labels = encoded.labels
        at = [t for t in range(1, len(labels)) if labels[t] != IGNORED]
        own = [t for t in range(len(labels)) if labels[t] != IGNORED]
        logits = output.logits[0].numpy()
        y = np.array([labels[t] for t in at])
        found.append(
            Numbers(logits[[t - 1 for t in at]], y, output.hidden_states[2][0].numpy()[own])
        )
    return found


@dataclass
class World:
    """A model's and its reference's numbers of all rows."""

    forget: list[Numbers]
    retain: list[Numbers]
    alternate: list[Numbers]


def world(model: Any) -> World:
    """The model's numbers of all rows."""
    return World(*(numbers(model, rows) for rows in (FORGET, RETAIN, ALTERNATES)))


def exact(model: Any) -> Any:
    """The model in float64, norms included: transformers computes them in float32."""
    model = model.to(torch.float64)
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(
                torch.nn.functional.rms_norm, normalized_shape=(32,), weight=module.weight, eps=1e-6
            )
    return model


def batch_of(before: World) -> dict[str, Any]:
    """A batch of all rows that has everything, with the references in float64."""

    def tensor(values: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(values))

    def sums(rows: list[Numbers]) -> torch.Tensor:
        return torch.tensor([float(each.nll.sum()) for each in rows], dtype=torch.float64)

    return {
        "forget": collate(FORGET, 0),
        "retain": collate(RETAIN, 0),
        "alternate": collate(ALTERNATES, 0),
        "reference": {
            "forget_nll": sums(before.forget),
            "alternate_nll": sums(before.alternate),
            "forget_logits": tensor([each.z for each in before.forget]),
            "retain_logits": tensor([each.z for each in before.retain]),
            "retain_hidden": tensor([each.h for each in before.retain]),
        },
    }


@cache
def memorised() -> dict[str, torch.Tensor]:
    """The weights of a tiny model that has memorised forget and retain rows."""
    model = make_model(num_hidden_layers=LAYERS).train()
    rows = collate(FORGET + RETAIN, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**rows).loss.backward()
        optimizer.step()
    return model.state_dict()


def memorised_model() -> Any:
    """A fresh model with those weights, embeddings frozen as in training."""
    model = make_model(num_hidden_layers=LAYERS)
    model.load_state_dict(memorised())
    for embedding in (model.get_input_embeddings(), model.get_output_embeddings()):
        embedding.weight.requires_grad_(False)
    return model.eval()
