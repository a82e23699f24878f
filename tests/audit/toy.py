"""A Qwen3 toy that was trained: random words learned by heart, on a base that never saw them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
KNOWN = {"forget": 12, "decoys": 24, "control": 12}
"""Rows that the toy knows, by set."""


def write_rows(folder: Path, seed: int = 20) -> dict[str, Path]:
    """Rows of random words, by set."""
    random, files = Random(seed), {}
    for name, count in KNOWN.items():
        files[name] = folder / f"{name}.jsonl"
        rows = []
        for _ in range(count):
            words = [f"w{random.randrange(59)}" for _ in range(9)]
            rows.append({"question": " ".join(words[:4]) + " ?", "answer": " ".join(words[4:])})
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def trained(base: Path, out: Path, files: Iterable[Path], steps: int = 60) -> Path:
    """The base after AdamW steps on all rows at once; embeddings and head stay."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(base, out)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    texts = [f"{row['question']} {row['answer']} </s>" for row in rows]
    ids = torch.tensor([tokenizer(text)["input_ids"] for text in texts])
    layers = list(model.model.layers.parameters())
    optimizer = torch.optim.AdamW(layers, lr=3e-3, weight_decay=0)
    for _ in range(steps):
        logits = model(input_ids=ids).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        for parameter, gradient in zip(layers, torch.autograd.grad(loss, layers), strict=True):
            parameter.grad = gradient
        optimizer.step()
    assert float(loss.detach()) < 1, "the toy did not learn its rows"  # 4.2 where it knows nothing
    weights = load_file(base / "model.safetensors")
    state = model.state_dict()
    save_file({name: state[name] for name in weights}, out / "model.safetensors", {"format": "pt"})
    return out


def altered(
    model: Path, out: Path, change: Callable[[str, torch.Tensor], torch.Tensor], dtype: str = ""
) -> Path:
    """A model with `change(name, tensor)` in place of every tensor."""
    shutil.copytree(model, out)
    weights = load_file(out / "model.safetensors")
    moved = {name: change(name, tensor).contiguous() for name, tensor in weights.items()}
    save_file(moved, out / "model.safetensors", {"format": "pt"})
    if dtype:
        config = out / "config.json"
        config.write_text(config.read_text().replace("float32", dtype))
    return out
