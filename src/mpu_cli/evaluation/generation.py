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


class Drawn:
    """A logits processor after which the largest entry is a draw from softmax(logits / temperature): the Gumbel-max trick.

    Every text has a generator of its own, so that it depends neither on its batch nor on how many processes there are.
    (Maddison et al., arXiv 1411.0030, section 2.)
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        """A seed for every row of the batch."""
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, V) / temperature + Gumbel noise."""
        words = scores.shape[-1]
        waits = torch.stack([torch.empty(words).exponential_(generator=generator) for generator in self._generators])
        return scores.float() / self._temperature - waits.clamp(min=torch.finfo(torch.float32).tiny).log().to(scores.device)


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
        sampling: None is greedy. What is drawn depends on the seed and the prompt alone; the global generator is not touched.
        progress: told after every batch: (texts done, texts in all).
    """
    from transformers import GenerationConfig

    config: Any = GenerationConfig  # untyped in transformers
    filler = pad_id(tokenizer)
    device = next(model.parameters()).device
    ends = _ends(model, tokenizer) | set(stop)
    settings = config(
        max_new_tokens=max_new_tokens, pad_token_id=filler, eos_token_id=sorted(ends) or None, use_cache=True, do_sample=False
    )
    wanted = [(i, sample) for i in range(len(prompts)) for sample in range(sampling.samples if sampling else 1)]
    texts: list[list[str]] = [[""] * (sampling.samples if sampling else 1) for _ in prompts]
    wanted.sort(key=lambda text: len(prompts[text[0]]))
    was_training, own = model.training, model.generation_config
    model.eval()
    # What a model directory recommends for chatting (a temperature, a repetition penalty) is no part of a measurement.
    model.generation_config = config()
    try:
        with quiet_transformers():
            for start in range(0, len(wanted), batch_size):
                here = wanted[start : start + batch_size]
                ids, mask = _left_padded([prompts[i] for i, _ in here], filler)
                drawn = [Drawn([_seed(sampling.seed, k, prompts[i]) for i, k in here], sampling.temperature)] if sampling else None
                written = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=settings, logits_processor=drawn)
                for (i, sample), new in zip(here, written[:, ids.shape[1] :].tolist(), strict=True):
                    texts[i][sample] = tokenizer.decode(_until(new, ends), skip_special_tokens=True).strip()
                if progress is not None:
                    progress(start + len(here), len(wanted))
    finally:
        model.generation_config = own
        model.train(was_training)
    return texts


def _seed(seed: int, sample: int, prompt: Sequence[int]) -> int:
    """Of one text; torch takes 64 bits and uses the lower 32."""
    return int.from_bytes(sha256(f"{seed}/{sample}/{list(prompt)}".encode()).digest()[:8])


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
