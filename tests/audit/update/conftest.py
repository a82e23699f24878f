"""A tiny round whose forget rows, decoys and cover rows are random words of one kind."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from mpu_cli.cli.app import run

TRAIN = ("--method", "GradAscent", "--optimizer", "adamw", "--learning-rate", "1e-3")
TRAIN += ("--epochs", "8", "--batch-size", "6")


@dataclass(frozen=True)
class Client:
    """What the data owner has."""

    handoff: Path
    update: Path
    rows: dict[str, Path]
    """By set: forget, decoys, control, cover."""


@dataclass(frozen=True)
class Done:
    """The result of a command line."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> dict[str, Any]:
        """The findings on stdout."""
        return json.loads(self.out)["findings"]


def quietly(*arguments: object) -> int:
    """Run a command line and restore the handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        return run([str(argument) for argument in arguments])
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def mpu(capsys) -> Callable[..., Done]:
    """`mpu("audit", …)`: run a command line in this process."""

    def call(*arguments: object) -> Done:
        capsys.readouterr()
        code = quietly(*arguments)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def client(tiny_pair, tmp_path_factory) -> Iterator[Client]:
    """One copy, unlearned on twelve rows; the handoff freezes nothing. Tests must not change it."""
    root = tmp_path_factory.mktemp("audit")
    pair, random = tiny_pair("llama"), Random(20)
    rows = {}
    for name, count in (("forget", 12), ("decoys", 24), ("control", 12), ("cover", 12)):
        rows[name] = root / f"{name}.jsonl"
        lines = []
        for _ in range(count):
            words = [f"w{random.randrange(59)}" for _ in range(9)]
            row = {"question": " ".join(words[:4]) + " ?", "answer": " ".join(words[4:])}
            lines.append(json.dumps(row))
        rows[name].write_text("\n".join(lines) + "\n")
    handoff, update = root / "to-client", root / "to-server"
    perturb = ("perturb", pair.model, "--base", pair.base, "--handoff", handoff)
    options = ("-m", 1, "--train-embeddings", "--check", "none", "--secret", root / "server")
    assert quietly("--quiet", *perturb, *options) == 0
    unlearn = ("unlearn", handoff, "--forget", rows["forget"], *TRAIN)
    assert quietly("--quiet", *unlearn, "--out", update) == 0
    yield Client(handoff, update, rows)


@pytest.fixture
def unlearned(client, tmp_path) -> Callable[..., Path]:
    """`unlearned(*options)`: another update of the same handoff."""

    def make(*options: object) -> Path:
        out = tmp_path / "to-server"
        unlearn = ("unlearn", client.handoff, "--forget", client.rows["forget"], *TRAIN, *options)
        assert quietly("--quiet", *unlearn, "--out", out) == 0
        return out

    return make


@pytest.fixture
def altered(client, tmp_path) -> Callable[..., Path]:
    """`altered(change)`: an update whose tensors are `change(tensor)`, made by `mpu diff`."""

    def make(change: Callable[[Any], Any]) -> Path:
        trained = tmp_path / "trained"
        shutil.copytree(client.handoff, trained, ignore=lambda path, names: ["mpu.yaml"])
        file = trained / "copy-1" / "model.safetensors"
        delta = load_file(client.update / "copy-1" / "delta.safetensors")
        weights = load_file(file)
        moved = {name: weights[name] + change(part) for name, part in delta.items()}
        save_file(weights | moved, file, metadata={"format": "pt"})
        assert quietly("--quiet", "diff", client.handoff, trained, "--out", tmp_path / "other") == 0
        return tmp_path / "other"

    return make
