"""Weights that are NaN, infinite, subnormal, huge or minus zero, with digests made right again."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from testkit.case import OTHER_HANDOFF, UNSEEN, Case
from testkit.damage import fill, fill_all, redigest


def _word(value: float) -> bytes:
    return struct.pack("<f", value)


REFUSED = {
    "NaN": _word(float("nan")),
    "a NaN with a payload": b"\x01\x00\xa0\xff",
    "infinity": _word(float("inf")),
    "minus infinity": _word(float("-inf")),
}
TENSOR = "model.layers.1.mlp.gate_proj.weight"
TRAINED_ON = {
    "mask update": "1 CheckFailed",
    "eval": "3 BadModel",
    "audit update": "3 BadModel",
}
"""Of an update: these commands add it to a copy, or round it."""


def _filled(place: str, word: bytes, name: str | None = None):
    def damage(x: Path, w: object) -> None:
        if name is None:
            fill_all(x / place, word)
        else:
            fill(x / place, word, name)
        if (x / "mpu.yaml").exists():
            redigest(x)

    return damage


def cases() -> Iterator[Case]:
    """One tensor, or all."""
    for said, word in REFUSED.items():
        yield Case(
            f"handoff: {said}",
            "handoff",
            _filled("copy-2/model.safetensors", word, TENSOR),
            but={**UNSEEN, "verify": "3 BadModel", "audit handoff": "1 Gate"},
        )
        yield Case(
            f"update: {said}",
            "update",
            _filled("copy-1/delta.safetensors", word, TENSOR),
            expect="1 Gate",
            but={**UNSEEN, **TRAINED_ON},
        )
        yield Case(
            f"LoRA update: {said}",
            "LoRA update",
            _filled("copy-1/adapter_model.safetensors", word),
            expect="1 Gate",
            but=UNSEEN,
        )
        yield Case(
            f"model: {said}",
            "model",
            _filled("model.safetensors", word, TENSOR),
            but={**UNSEEN, "data check": "0", "unlearn": "1 CheckFailed", "aggregate": "1 Gate"},
        )
    huge = _word(3e38)
    yield Case(
        "update: the largest numbers",
        "update",
        _filled("copy-2/delta.safetensors", huge, TENSOR),
        expect="0",
        but={"aggregate": "1 Gate", "mask update": "1 CheckFailed"},
        why="finite numbers; agreement and norms are the server's checks",
    )
    yield Case(
        "LoRA update: a product beyond float32",
        "LoRA update",
        _filled("copy-1/adapter_model.safetensors", huge),
        expect="1 Gate",
        but=UNSEEN,
    )
    yield Case(
        "model: the largest numbers",
        "model",
        _filled("model.safetensors", huge),
        expect="0",
        but={
            "perturb": "3 BadModel",
            "perturb --base": "3 BadModel",
            "unlearn": "1 CheckFailed",
            "aggregate": "1 Gate",
        },
        why="finite numbers; whatever computes with them says that it cannot",
    )
    flood = struct.pack("<I", 1)
    yield Case(
        "update: a flood of subnormal numbers",
        "update",
        _filled("copy-2/delta.safetensors", flood),
        expect="0",
        but={"aggregate": "1 Gate"},
        why="finite numbers; the copies do not agree",
    )
    yield Case(
        "handoff: a flood of subnormal numbers",
        "handoff",
        _filled("copy-2/model.safetensors", flood),
        expect="0",
        but={"diff": "1 CheckFailed", **OTHER_HANDOFF},
        why="finite numbers: a useless copy, and the client's time stays bounded",
    )
    minus_zero = _word(-0.0)
    yield Case(
        "update: minus zero everywhere",
        "update",
        _filled("copy-2/delta.safetensors", minus_zero),
        expect="0",
        but={"aggregate": "1 Gate"},
        why="a change of nothing; the other copy changed",
    )
    yield Case(
        "model: minus zero in one tensor",
        "model",
        _filled("model.safetensors", minus_zero, TENSOR),
        expect="0",
        but={"aggregate": "1 Gate"},
        why="a finite model; the lineage does not know its digest",
    )
