"""One flipped bit, as of a bad disk: every listed byte is covered by a digest or an HMAC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import flip, only

PLACES = {
    "handoff": (
        "mpu.yaml",
        "copy-1/config.json",
        "copy-1/tokenizer.json",
        "copy-2/model.safetensors",
    ),
    "handoff in shards": ("copy-1/model.safetensors.index.json", "copy-2/model-00002-of-*"),
    "update": ("mpu.yaml", "copy-2/delta.safetensors"),
    "update in shards": ("copy-1/delta.safetensors.index.json", "copy-2/delta-00001-of-*"),
    "LoRA update": ("copy-1/adapter_config.json", "copy-2/adapter_model.safetensors"),
    "masked update": ("mpu.yaml", "copy-1/masked.safetensors"),
    "secret": ("secret.yaml", "handoffs/*.yaml", "models/*.yaml"),
}

SEEN = {"mpu.yaml", "copy-1/adapter_config.json", "copy-1/delta.safetensors.index.json"}
"""What `inspect` reads of a bundle."""


def cases() -> Iterator[Case]:
    """One bit in the middle of each kind of file."""
    for thing, places in PLACES.items():
        for place in places:

            def damage(x: Path, w: object, place: str = place) -> None:
                flip(only(x, place))

            seen = place in SEEN or thing == "secret"
            yield Case(f"{thing}: {place}", thing, damage, but={} if seen else UNSEEN)

    def weights(x: Path, w: object) -> None:
        flip(x / "model.safetensors", 0.9)

    yield Case(
        "model: weights",
        "model",
        weights,
        expect="0",
        but={"aggregate": "1 Gate"},
        why="a model directory holds no digest; verify prints one, and the lineage knows its own",
    )
