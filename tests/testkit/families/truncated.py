"""Files that end early, or are empty, as after a broken transfer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import only, redigest, truncate

PLACES = {
    "handoff": (
        "mpu.yaml",
        "copy-2/config.json",
        "copy-2/tokenizer.json",
        "copy-2/model.safetensors",
    ),
    "update": ("mpu.yaml", "copy-2/delta.safetensors"),
    "LoRA update": ("mpu.yaml", "copy-1/adapter_config.json", "copy-2/adapter_model.safetensors"),
    "masked update": ("mpu.yaml", "copy-2/masked.safetensors"),
    "secret": ("secret.yaml", "handoffs/*.yaml", "models/*.yaml"),
    "record": ("summary.json", "items.jsonl"),
    "model": ("config.json", "model.safetensors"),
    "model in shards": ("model.safetensors.index.json", "model-00002-of-00002.safetensors"),
}
SHARES = {"empty": 0.0, "half": 0.5, "one byte less": -1}


def _cut(place: str, share: float):
    def damage(x: Path, w: object) -> None:
        truncate(only(x, place), share)

    return damage


def _but(thing: str, place: str) -> dict[str, str]:
    if (thing == "handoff" and place != "mpu.yaml") or place == "items.jsonl":
        return UNSEEN
    return {"data check": "0"} if "safetensors" in place and "model" in thing else {}


def cases() -> Iterator[Case]:
    """Each file at three lengths; and with a digest that is right again."""
    for thing, places in PLACES.items():
        for place in places:
            for said, share in SHARES.items():
                if share == -1 and place in {"config.json", "items.jsonl", "summary.json"}:
                    continue  # only the last line break is lost
                yield Case(
                    f"{thing}: {place}, {said}", thing, _cut(place, share), but=_but(thing, place)
                )
    for thing, place in (
        ("handoff", "copy-1/config.json"),
        ("handoff", "copy-1/model.safetensors"),
        ("update", "copy-1/delta.safetensors"),
        ("LoRA update", "copy-1/adapter_config.json"),
        ("masked update", "copy-1/masked.safetensors"),
    ):

        def again(x: Path, w: object, place: str = place) -> None:
            truncate(x / place, 0.5)
            redigest(x)

        yield Case(
            f"{thing}: {place}, half, digests right again", thing, again, but=_but(thing, place)
        )
