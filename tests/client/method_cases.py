"""Rows, settings that suit a tiny model, and plain numbers, for the tests of the methods.

The test file of each method, `methods/test_NAME.py`, has its `CASE`; the shared tests find it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cases import case_of
from mpu_cli.client import methods
from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, TokenizedRow
from tiny_models import make_model

Values = dict[str, Any]
FOLDER = Path(__file__).parent / "methods"
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
UNANSWERABLE = [row(11, 8, 5), row(12, 10, 7)]
ALTERNATES = [answered(FORGET[0], 7, 3), answered(FORGET[1], 8, 6), answered(FORGET[2], 9, 2)]


@dataclass(frozen=True)
class MethodCase:
    """What the shared tests must know of one method."""

    formula: Callable[[World, World, World, Values], float]
    """(now, before, start, parameters) → loss; `before` is the reference, `start` is constant."""
    published: Values
    """All parameters with their published defaults; those without a default as in `required`."""
    required: Mapping[str, Any] = field(default_factory=dict)
    """A value for each parameter without a default."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Values for a run of six steps, where the defaults hardly forget."""
    rate: float = 1.0
    """The learning rate of such a run, as a multiple of the optimizer's usual one."""
    forget_only: Mapping[str, Any] = field(default_factory=dict)
    """Values that, beside alpha=0, leave only the forget loss."""
    sensitive: Mapping[str, Any] = field(default_factory=dict)
    """Values at which a small change of each parameter changes the loss."""
    only_in_training: Collection[str] = ()
    """Parameters that do not change the first loss; the method's own tests cover them."""
    weighted: bool = False
    """Whether its weights or target have no gradient: the rows' probability falls, not its loss."""
    layers_above_stay: bool = False
    """Whether it trains only the layers up to `layer`."""
    trains: str = ""
    """The only tensor that it trains at layer 1, if it is one."""
    recommended: bool = True
    """Whether the file says all settings that its authors trained with."""


@cache
def method_case(name: str) -> MethodCase:
    """The case of a method, from its test file."""
    case: MethodCase = case_of(FOLDER, methods._find(name).stem, "add-a-method")
    return case


def required(name: str) -> list[str]:
    """Assignments without which a method does not start."""
    return [f"{key}={value}" for key, value in method_case(name).required.items()]


def values_of(method: methods.MethodInfo, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The method's defaults, with what it requires and those of the changes that it knows."""
    known = {parameter.name for parameter in method.parameters}
    given = dict(method_case(method.name).required)
    given |= {name: value for name, value in (changes or {}).items() if name in known}
    return method.parse(f"{name}={value}" for name, value in given.items())


@dataclass
class Numbers:
    """What a model says of one row.

    Logits z (n, V) that predict the labelled tokens y (n,), and states of layer 1: h (m, D) of the
    labelled tokens, and those of the prompt's.
    """

    z: np.ndarray
    y: np.ndarray
    h: np.ndarray
    prompt: np.ndarray

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
        states = output.hidden_states[2][0].numpy()
        found.append(Numbers(logits[[t - 1 for t in at]], y, states[own], states[: own[0]]))
    return found


@dataclass
class World:
    """A model's and its reference's numbers of all rows."""

    forget: list[Numbers]
    retain: list[Numbers]
    alternate: list[Numbers]
    unanswerable: list[Numbers]

    @property
    def direction(self) -> np.ndarray:
        """From forget prompts' last states to those of unanswerable questions, (D,)."""
        ends = [[row.prompt[-1] for row in rows] for rows in (self.unanswerable, self.forget)]
        return np.mean(ends[0], axis=0) - np.mean(ends[1], axis=0)


def world(model: Any) -> World:
    """The model's numbers of all rows."""
    return World(*(numbers(model, rows) for rows in (FORGET, RETAIN, ALTERNATES, UNANSWERABLE)))


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
            "forget_prompt_hidden": tensor([each.prompt for each in before.forget]),
            "retain_prompt_hidden": tensor([each.prompt for each in before.retain]),
            "direction": torch.from_numpy(before.direction),
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


def fresh(family: str = "llama") -> Any:
    """The model under test, in float64."""
    return exact(make_model(family, seed=1, num_hidden_layers=LAYERS))


def token_mean(rows: list[np.ndarray]) -> float:
    """The mean over all tokens."""
    return float(np.concatenate(rows).mean())


def log_sigmoid(x: float) -> float:
    """The logarithm of the logistic function."""
    return float(-np.log1p(np.exp(-x)))


def softmax(z: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(row: Numbers) -> np.ndarray:
    """(n, V), 1 at each labelled token."""
    return np.eye(row.z.shape[1])[row.y]


def retained(now: World, before: World, p: Values) -> float:
    """The weighted retain loss: token-mean NLL, or KL(reference ‖ model)."""
    if p["retain_loss"] == "NLL":
        return p["alpha"] * token_mean([row.nll for row in now.retain])
    pairs = zip(now.retain, before.retain, strict=True)
    return p["alpha"] * token_mean(
        [(np.exp(q.log_p) * (q.log_p - r.log_p)).sum(-1) for r, q in pairs]
    )


def preferred(now: World, before: World, p: Values) -> float:
    """DPO over sums of log-ratios."""
    terms = []
    for win, win_ref, lose, lose_ref in zip(
        now.alternate, before.alternate, now.forget, before.forget, strict=True
    ):
        ratio = (win_ref.nll.sum() - win.nll.sum()) - (lose_ref.nll.sum() - lose.nll.sum())
        terms.append(-2 / p["beta"] * log_sigmoid(p["beta"] * ratio))
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)
