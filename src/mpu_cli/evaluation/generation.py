"""What a model writes: batches sorted by length, padded at the left, with the key–value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch

from mpu_cli.data.batches import pad_id
from mpu_cli.training.load import quiet_transformers


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw instead of taking the most probable token."""

    samples: int = 1
    temperature: float = 1.0
    seed: int = 0


@torch.inference_mode()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    *,
    stop: Sequence[int] = (),
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """The model's continuations of every prompt, in the given order: one greedy text, or as many as are sampled.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: token ids, each prompt at least one.
        max_new_tokens: at most this many new tokens.
        batch_size: texts in a batch, samples counted.
        stop: tokens that end an answer besides the model's own end tokens.
        sampling: None is greedy. The global generator is seeded for each batch, and put back afterwards.
        progress: told after every batch: (prompts done, prompts in all).
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig  # untyped in transformers
    filler = pad_id(tokenizer)
    device = next(model.parameters()).device
    ends = _ends(model, tokenizer) | set(stop)
    samples = sampling.samples if sampling else 1
    choice: dict[str, Any] = {"do_sample": False}
    if sampling:
        choice = {"do_sample": True, "temperature": sampling.temperature, "top_k": 0, "top_p": 1.0, "num_return_sequences": samples}
    settings = config(
        max_new_tokens=max_new_tokens, pad_token_id=filler, eos_token_id=sorted(ends) or None, use_cache=True, **choice
    )
    texts: list[list[str]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    step = max(1, batch_size // samples)
    was_training, own = model.training, model.generation_config
    model.eval()
    # What a model directory recommends for chatting (a temperature, a repetition penalty) is no part of a measurement.
    model.generation_config = config()
    try:
        with quiet_transformers(), torch.random.fork_rng(enabled=sampling is not None):
            for start in range(0, len(order), step):
                places = order[start : start + step]
                ids, mask = _left_padded([prompts[i] for i in places], filler)
                if sampling:
                    torch.manual_seed(_seed(sampling.seed, start))
                written = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=settings)
                for row, new in enumerate(written[:, ids.shape[1] :].tolist()):
                    texts[places[row // samples]].append(tokenizer.decode(_until(new, ends), skip_special_tokens=True).strip())
                if progress is not None:
                    progress(min(start + step, len(order)), len(order))
    finally:
        model.generation_config = own
        model.train(was_training)
    return texts


def _seed(seed: int, start: int) -> int:
    """Of a batch, from a seed of any length; torch takes 64 bits and uses the lower 32."""
    return int.from_bytes(sha256(f"{seed}/{start}".encode()).digest()[:8])


def _ends(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None}


def _until(ids: Sequence[int], ends: set[int]) -> list[int]:
    return list(ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def _left_padded(prompts: Sequence[Sequence[int]], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each (B, T)."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[filler] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
