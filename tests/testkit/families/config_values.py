"""config.json with values that no model has: sizes, counts, code, kernels, depth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from testkit.case import UNSEEN, Case
from testkit.damage import redigest

VALUES: dict[str, dict[str, object]] = {
    "10⁹ layers": {"num_hidden_layers": 10**9},
    "no layers": {"num_hidden_layers": 0},
    "−2 layers": {"num_hidden_layers": -2},
    "5,000,000 words": {"vocab_size": 5_000_000},
    "10¹² words": {"vocab_size": 10**12},
    "a hidden size of 2⁶²": {"hidden_size": 2**62},
    "a hidden size of 0": {"hidden_size": 0},
    "a hidden size that is a text": {"hidden_size": "32"},
    "a hidden size that is true": {"hidden_size": True},
    "no heads": {"num_attention_heads": 0},
    "3 key-value heads of 4": {"num_key_value_heads": 3},
    "a head size of 10⁹": {"head_dim": 10**9},
    "an epsilon of NaN": {"rms_norm_eps": float("nan")},
    "an epsilon below zero": {"rms_norm_eps": -1.0},
    "rope of an unknown type": {"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}},
    "a rope factor of 0": {
        "rope_parameters": {"rope_type": "linear", "factor": 0.0, "rope_theta": 1e4}
    },
    "a rope θ of 0": {"rope_parameters": {"rope_type": "default", "rope_theta": 0.0}},
    "remote code": {"auto_map": {"AutoModel": "x.Y"}},
    "quantised": {"quantization_config": {"bits": 4, "quant_method": "gptq"}},
    "an unknown model": {"model_type": "mamba"},
    "a model type that is a list": {"model_type": ["llama"]},
    "a model type with a path": {"model_type": "../../llama"},
    "no model type": {"model_type": None},
    "a window of −1": {"sliding_window": -1, "model_type": "mistral"},
    "an unknown activation": {"hidden_act": "__import__('os').system('true')"},
    "an activation that is a list": {"hidden_act": ["silu"]},
    "a number of 5,000 digits": {"intermediate_size": int("9" * 4000)},
    "positions without bound": {"max_position_embeddings": 10**15},
}
ACCEPTED: dict[str, dict[str, object]] = {
    "12,000,000 labels": {"num_labels": 12_000_000},
    "return_dict false": {"return_dict": False},
    "a kernel from the Hub": {"_attn_implementation": "kernels-community/evil"},
    "a distributed configuration": {"distributed_config": {"enable_expert_parallel": True}},
    "where it was trained": {"_name_or_path": "/home/me/secret-project"},
    "keys of a wandb run": {"wandb_run_id": "abc", "output_dir": "s3://bucket/run"},
}
"""Keys that mpu drops: they are not about the model."""


ROWS_ONLY = {"10⁹ layers", "5,000,000 words", "a head size of 10⁹", "an unknown model"}
"""Accepted by `data check`, which reads the tokenizer only."""


def _dump(path: Path, changes: dict[str, object]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _text(path: Path, change: Callable[[str], bytes]) -> None:
    path.write_bytes(change(path.read_text()))


TEXTS: dict[str, Callable[[str], bytes]] = {
    "100,000 lists deep": lambda text: b"[" * 100_000,
    "65 maps deep": lambda text: (
        text.rstrip()[:-1] + ', "x": ' + '{"a":' * 65 + "1" + "}" * 66
    ).encode(),
    "a list": lambda text: b"[]",
    "null": lambda text: b"null",
    "17 MiB": lambda text: (text.rstrip()[:-1] + ', "x": "' + "x" * (17 << 20) + '"}').encode(),
    "UTF-16": lambda text: text.encode("utf-16"),
    "half a character": lambda text: text.replace("llama", "\\ud800", 1).encode(),
    "two objects": lambda text: (text + text).encode(),
    "a Git LFS pointer": lambda text: (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n"
    ),
}


def _model(change):
    return lambda x, w: change(x / "config.json")


def _handoff(change):
    """In every copy, so that the copies do not differ."""

    def damage(x: Path, w: object) -> None:
        for name in ("copy-1", "copy-2"):
            change(x / name / "config.json")
        redigest(x)

    return damage


def cases() -> Iterator[Case]:
    """In a model, and in every copy of a handoff."""
    for said, values in VALUES.items():
        yield Case(
            f"model: {said}",
            "model",
            _model(lambda p, values=values: _dump(p, values)),
            but={"data check": "0"} if said in ROWS_ONLY else {},
        )
    for said in ("10⁹ layers", "5,000,000 words", "remote code", "quantised", "a rope factor of 0"):
        values = VALUES[said]
        yield Case(
            f"handoff: {said}",
            "handoff",
            _handoff(lambda p, values=values: _dump(p, values)),
            but=UNSEEN,
        )
    for said, values in ACCEPTED.items():
        yield Case(
            f"model: {said}",
            "model",
            _model(lambda p, values=values: _dump(p, values)),
            expect="0",
            why="the key is dropped, and said to be",
            skip=("perturb --base",),  # the model equals this base
        )
    for said, change in TEXTS.items():
        yield Case(f"model: {said}", "model", _model(lambda p, change=change: _text(p, change)))
