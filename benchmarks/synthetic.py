"""Models of real shapes with random weights, for the benchmarks: shared by them, not one itself.

Real configurations (SmolLM2-135M, SmolLM2-360M, Llama-3.2-1B); the weights are normals of standard
deviation 0.05, the base the same without a task vector of 15 % on the decoder layers. Written front
to back, a block at a time, by code of its own: a benchmark must not depend on the engine that it
measures. Tied heads are stored once.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

TASK = 0.15
"""RMS of the task vector over that of the weights."""
_SCALE = 0.05
_BLOCK = 1 << 20

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "use_cache": True,
    "dtype": "float32",
}
_SMOLLM2 = {
    "vocab_size": 49152,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LLAMA_ROPE = {
    "rope_type": "llama3",
    "factor": 32.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}
CONFIGS: Mapping[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
        "max_position_embeddings": 256,
        "rope_theta": 10000.0,
    },
    "135m": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    | _SMOLLM2,
    "360m": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
        "num_key_value_heads": 5,
    }
    | _SMOLLM2,
    "1.2b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": _LLAMA_ROPE,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}


@dataclass(frozen=True, slots=True)
class Size:
    """One model's shape, float32."""

    name: str

    @property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return _LLAMA | CONFIGS[self.name]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor on disk, in the order of a safetensors file."""
        config = self.config
        hidden, ffn, heads = (
            config["hidden_size"],
            config["intermediate_size"],
            config["num_attention_heads"],
        )
        kv = config["num_key_value_heads"] * (hidden // heads)
        found: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config["vocab_size"], hidden),
            "model.norm.weight": (hidden,),
        }
        for layer in range(config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            found |= {
                f"{prefix}{name}.weight": (hidden,)
                for name in ("input_layernorm", "post_attention_layernorm")
            }
            found |= {f"{prefix}self_attn.{name}_proj.weight": (hidden, hidden) for name in "qo"}
            found |= {f"{prefix}self_attn.{name}_proj.weight": (kv, hidden) for name in "kv"}
            found |= {f"{prefix}mlp.{name}_proj.weight": (ffn, hidden) for name in ("gate", "up")}
            found[f"{prefix}mlp.down_proj.weight"] = (hidden, ffn)
        return dict(sorted(found.items()))

    @property
    def noised(self) -> dict[str, int]:
        """Entries of the tensors that get noise under `--scope layers`.

        Those of the decoder layers.
        """
        return {name: prod(shape) for name, shape in self.shapes.items() if ".layers." in name}

    @property
    def parameters(self) -> int:
        """Entries on disk."""
        return sum(map(prod, self.shapes.values()))

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return 4 * self.parameters

    @property
    def layer_bytes(self) -> int:
        """Bytes of one decoder layer."""
        return 4 * sum(self.noised.values()) // int(self.config["num_hidden_layers"])

    @property
    def matrix_bytes(self) -> int:
        """Bytes of a decoder layer's largest tensor, which a transform may move as a whole."""
        return 4 * max(self.noised.values())

    def disk(self, copies: int, masked: int = 0) -> int:
        """Bytes that one round needs at its fullest: model, base, handoff, update, masked ones."""
        update = copies * 4 * sum(self.noised.values())
        return (2 + copies) * self.nbytes + (1 + masked) * update + 2**20


def write_model(directory: Path, size: Size, task: float) -> Path:
    """Random weights, the same for every `task` but for a share `task` of the decoder layers."""
    import torch

    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(size.config, indent=2))
    with (directory / "model.safetensors").open("wb") as file:
        file.write(_header(size.shapes))
        for name, shape in size.shapes.items():
            weights, moved = _generator(name), _generator(f"task {name}")
            for start in range(0, prod(shape), _BLOCK):
                count = min(_BLOCK, prod(shape) - start)
                block = torch.empty(count).normal_(0.0, _SCALE, generator=weights)
                if task and ".layers." in name:
                    block += torch.empty(count).normal_(0.0, _SCALE * task, generator=moved)
                file.write(block.numpy().data)
    return directory


def write_pair(root: Path, size: Size) -> tuple[Path, Path]:
    """The model and its base below `root`."""
    return write_model(root / "model", size, TASK), write_model(root / "base", size, 0.0)


def stand_in_for_training(handoff: Path, trained: Path) -> Path:
    """Trained copies that need no disk.

    Every copy stands for its neighbour's training result, by a link.

    Two copies differ in every entry that gets noise and in no other, as a trained one differs from
    the published one with embeddings frozen; `mpu diff` and `mpu aggregate` have the same bytes to
    read, compute and write. The numbers are not an update's: aggregate needs all its gates open.
    """
    trained.mkdir()
    names = sorted(folder.name for folder in handoff.glob("copy-*"))
    for number, name in enumerate(names):
        (trained / name).symlink_to(
            handoff.absolute() / names[(number + 1) % len(names)], target_is_directory=True
        )
    return trained


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        entries[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset := offset + 4 * prod(shape)],
        }
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw


def _generator(name: str) -> Any:
    import torch

    return torch.Generator().manual_seed(int.from_bytes(sha256(name.encode()).digest()[:4], "big"))
