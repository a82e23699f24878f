"""Tensors that a bundle may not hold: foreign, missing, frozen, of another shape or dtype."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from testkit.case import UNSEEN, Case
from testkit.damage import edit_json, redigest

Tensors = dict[str, np.ndarray]
NORM, EMBEDDING = "model.norm.weight", "model.embed_tokens.weight"
GATE = "model.layers.1.mlp.gate_proj.weight"


def _edit(place: str, change: Callable[[Tensors], object]):
    def damage(x: Path, w: object) -> None:
        tensors = load_file(x / place)
        change(tensors)
        save_file(tensors, x / place, metadata={"format": "pt"})
        if (x / "mpu.yaml").exists():
            redigest(x)

    return damage


def _config(**changes: object):
    def damage(x: Path, w: object) -> None:
        edit_json((x / "copy-2" if (x / "copy-2").exists() else x) / "config.json", **changes)
        if (x / "mpu.yaml").exists():
            redigest(x)

    return damage


def _copy(change: Callable[[Path], object]):
    def damage(x: Path, w: object) -> None:
        change(x / "copy-2")
        redigest(x)

    return damage


COPY = {
    "a tensor fewer": lambda t: t.pop(NORM),
    "a tensor more": lambda t: t.update(extra=np.zeros(1, np.float32)),
    "another shape": lambda t: t.update({NORM: np.zeros(9, np.float32)}),
    "float16 in place of float32": lambda t: t.update({NORM: t[NORM].astype(np.float16)}),
    "integers": lambda t: t.update({NORM: t[NORM].astype(np.int32)}),
    "float64": lambda t: t.update({NORM: t[NORM].astype(np.float64)}),
}
DELTA = {
    "a foreign tensor": lambda t: t.update(extra=np.ones(1, np.float32)),
    "another shape": lambda t: t.update({GATE: np.ones((3, 3), np.float32)}),
    "a frozen tensor": lambda t: t.update({EMBEDDING: np.ones((64, 32), np.float32)}),
}
DELTA_DTYPES = {
    "float16": lambda t: t.update({GATE: np.zeros((48, 32), np.float16)}),
    "float64": lambda t: t.update({GATE: np.zeros((48, 32))}),
    "integers": lambda t: t.update({GATE: np.zeros((48, 32), np.int32)}),
    "bytes": lambda t: t.update({GATE: np.zeros((48, 32), np.uint8)}),
}
MASKED = {
    "a foreign tensor": lambda t: t.update(extra=np.zeros(1, np.int32)),
    "a frozen tensor": lambda t: t.update({EMBEDDING: np.zeros((64, 32), np.int32)}),
    "a tensor is missing": lambda t: t.pop(GATE),
    "another shape": lambda t: t.update({GATE: np.zeros((3, 3), np.int32)}),
}
MODEL = {
    "a tensor fewer": lambda t: t.pop(GATE),
    "a foreign tensor in a layer": lambda t: t.update(
        {"model.layers.0.mystery": np.zeros(2, np.float32)}
    ),
    "another shape": lambda t: t.update({GATE: np.zeros((3, 32), np.float32)}),
    "no tensors": lambda t: t.clear(),
}
ROWS_ONLY = {"data check": "0"}


def cases() -> Iterator[Case]:
    """Well-formed files with right digests that do not fit."""
    for said, change in COPY.items():
        yield Case(
            f"handoff: copy 2: {said}",
            "handoff",
            _edit("copy-2/model.safetensors", change),
            but=UNSEEN,
        )
    for said, change in DELTA.items():
        yield Case(
            f"update: {said}",
            "update",
            _edit("copy-1/delta.safetensors", change),
            expect="1 Gate",
            but={"verify": "0", "inspect": "0"},
            why="verify has no handoff to compare tensors with",
        )
    for said, change in DELTA_DTYPES.items():
        yield Case(
            f"update: a change in {said}",
            "update",
            _edit("copy-1/delta.safetensors", change),
            expect="1 Gate",
            but=UNSEEN,
        )
    for said, change in MASKED.items():
        yield Case(
            f"masked update: {said}",
            "masked update",
            _edit("copy-2/masked.safetensors", change),
            expect="1 Gate",
            but={"verify": "0", "inspect": "0"},
            why="verify has no handoff to compare tensors with",
        )
    yield Case(
        "masked update: floats",
        "masked update",
        _edit(
            "copy-2/masked.safetensors", lambda t: t.update({GATE: np.zeros((48, 32), np.float32)})
        ),
        expect="1 Gate",
    )
    for said, change in MODEL.items():
        yield Case(f"model: {said}", "model", _edit("model.safetensors", change), but=ROWS_ONLY)
    yield Case(
        "handoff: a dtype that its tensors do not have",
        "handoff",
        _config(dtype="bfloat16"),
        but=UNSEEN,
    )
    yield Case(
        "handoff: no weights",
        "handoff",
        _copy(lambda c: (c / "model.safetensors").unlink()),
        but=UNSEEN,
    )
    yield Case(
        "handoff: weights and an index",
        "handoff",
        _copy(
            lambda c: (c / "model.safetensors.index.json").write_text(
                json.dumps({"weight_map": {NORM: "model-00001-of-00002.safetensors"}})
            ),
        ),
        but=UNSEEN,
    )
