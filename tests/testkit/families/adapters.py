"""LoRA adapters in an update that ask for more than an adapter may, digests right again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import Case
from testkit.damage import edit_header, redigest


def _config(change: Callable[[dict], object]):
    def damage(x: Path, w: object) -> None:
        path = x / "copy-1" / "adapter_config.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_bytes(json.dumps(content, sort_keys=True, indent=2).encode() + b"\n")
        redigest(x)

    return damage


def _text(old: str, new: str):
    def damage(x: Path, w: object) -> None:
        path = x / "copy-1" / "adapter_config.json"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        redigest(x)

    return damage


def _names(change: Callable[[str], str]):
    def damage(x: Path, w: object) -> None:
        def rename(header: dict) -> None:
            for name in [one for one in header if one != "__metadata__"]:
                header[change(name)] = header.pop(name)

        edit_header(x / "copy-1" / "adapter_model.safetensors", rename)
        redigest(x)

    return damage


def _transpose(header: dict) -> None:
    for name, entry in header.items():
        if "lora_A" in name:
            entry["shape"].reverse()


def _shapes(x: Path, w: object) -> None:
    edit_header(x / "copy-1" / "adapter_model.safetensors", _transpose)
    redigest(x)


def _file_more(name: str):
    def damage(x: Path, w: object) -> None:
        (x / "copy-1" / name).write_bytes(b"x")
        redigest(x)

    return damage


CASES = {
    "rank 0": _config(lambda c: c.update(r=0)),
    "rank 513": _config(lambda c: c.update(r=513)),
    "rank 8 over matrices of rank 4": _config(lambda c: c.update(r=8)),
    "a rank that is a text": _config(lambda c: c.update(r="4")),
    "α of 0": _config(lambda c: c.update(lora_alpha=0)),
    "α of 10⁷": _config(lambda c: c.update(lora_alpha=10**7)),
    "α of NaN": _config(lambda c: c.update(lora_alpha=float("nan"))),
    "α of infinity": _config(lambda c: c.update(lora_alpha=float("inf"))),
    "α of 600 digits": _config(lambda c: c.update(lora_alpha=int("9" * 600))),
    "a rank of 10,000 digits": _text('"r": 4', '"r": ' + "9" * 10_000),
    "DoRA": _config(lambda c: c.update(use_dora=True)),
    "a trained bias": _config(lambda c: c.update(bias="all")),
    "a path to the base": _config(lambda c: c.update(base_model_name_or_path="/home/me/model")),
    "another kind of adapter": _config(lambda c: c.update(peft_type="PROMPT_TUNING")),
    "training on": _config(lambda c: c.update(inference_mode=False)),
    "a custom module": _config(lambda c: c.update(auto_mapping={"base_model_class": "os.system"})),
    "modules out of order": _config(lambda c: c["target_modules"].reverse()),
    "a module twice": _config(lambda c: c["target_modules"].append(c["target_modules"][-1])),
    "a module more": _config(lambda c: c["target_modules"].append("z")),
    "a module fewer": _config(lambda c: c["target_modules"].pop()),
    "modules by a pattern": _config(lambda c: c.update(target_modules=".*")),
    "a key twice": _text('"r": 4', '"r": 4,\n  "r": 4'),
    "other spaces": _text('"r": 4', '"r":  4'),
    "a tensor that is neither A nor B": _names(
        lambda name: name.replace("lora_A", "lora_magnitude")
    ),
    "A without B": _names(lambda name: name.replace("q_proj.lora_B", "x_proj.lora_B")),
    "names without PEFT's prefix": _names(lambda name: name.removeprefix("base_model.model.")),
    "A transposed": _shapes,
    "a pickle beside it": _file_more("adapter_model.bin"),
    "a delta beside it": _file_more("delta.safetensors"),
}


def _embedding(x: Path, w: object) -> None:
    """The adapter of one module is said to be one of the embedding."""
    module = "model.embed_tokens"
    path = x / "copy-1" / "adapter_config.json"
    content = json.loads(path.read_text())
    old = content["target_modules"][0]
    content["target_modules"] = sorted([*content["target_modules"][1:], module])
    path.write_bytes(json.dumps(content, sort_keys=True, indent=2).encode() + b"\n")

    def rename(header: dict) -> None:
        for half in "AB":
            name = f"base_model.model.{old}.lora_{half}.weight"
            header[name.replace(old, module)] = header.pop(name)

    edit_header(x / "copy-1" / "adapter_model.safetensors", rename)
    redigest(x)


def _transposed(x: Path, w: object) -> None:
    _config(lambda c: c.update(fan_in_fan_out=True))(x, w)


def cases() -> Iterator[Case]:
    """By the files, and by what the model has."""
    for said, damage in CASES.items():
        yield Case(f"LoRA update: {said}", "LoRA update", damage)
    for said, damage in {
        "an adapter of the embedding": _embedding,
        "fan_in_fan_out of a model that stores the other way": _transposed,
    }.items():
        yield Case(
            f"LoRA update: {said}",
            "LoRA update",
            damage,
            expect="1 Gate",
            but={"verify": "0", "inspect": "0"},
            why="whether the model has such a matrix is known to whoever has the model",
        )
