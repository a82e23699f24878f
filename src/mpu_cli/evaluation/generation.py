"""The texts that a model writes: batches sorted by length, each decoded with our own loop.

`model.generate` continues a whole batch until its longest answer ends; see `decoding`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from mpu_cli.data.batches import pad_id
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.evaluation.decoding import continued, refuse_without_cache
from mpu_cli.evaluation.rope_regime import CROSSING, regime, switch_length
from mpu_cli.evaluation.sampling import Greedy, RandomChoice, Sampling, text_seed
from mpu_cli.modeling.hooks.cache import reads_padding
from mpu_cli.modeling.tokenizer import quiet_transformers

_STOP_INTERVAL = 8
"""New tokens of a row between two searches for a stop text; what follows the stop is cut off."""


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    *,
    stop: Sequence[int] = (),
    until: Sequence[str] = (),
    sampling: Sampling | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[str]]:
    """Continue every prompt, greedily or with random samples; return the texts in the given order.

    What a model directory recommends for chats (a temperature, a repetition penalty) is ignored: it
    has no place in a measurement.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: token ids, at least one in each prompt.
        max_new_tokens: the most new tokens.
        batch_size: texts in a batch; each sample counts.
        stop: tokens that end an answer besides the model's own end tokens.
        until: texts that end an answer; the first one and what follows are cut off.
        sampling: None is greedy. Samples depend on the seed and the prompt alone; the global
            generator is not used.
        progress: called after every batch with (texts done, texts in total).

    Raises:
        BadModelError: the model has no key–value cache, or its logits are not finite.
    """
    refuse_without_cache(model)
    filler, ends = pad_id(tokenizer, embedding_rows(model)), _ends(model, tokenizer) | set(stop)

    def text(new: Sequence[int]) -> str:
        return str(tokenizer.decode(new, skip_special_tokens=True))

    def over(new: Sequence[int]) -> bool:
        return len(new) % _STOP_INTERVAL == 0 and any(stop in text(new) for stop in until)

    switch = switch_length(model.config)
    samples = sampling.samples if sampling else 1
    texts: list[list[str]] = [[""] * samples for _ in prompts]
    batches = _batches(
        [len(prompt) for prompt in prompts for _ in range(samples)],
        1 if reads_padding(model) else batch_size,
        lambda length: regime(length, max_new_tokens, switch),
    )
    done = 0
    was_training = model.training
    model.eval()
    try:
        with quiet_transformers():
            for batch in batches:
                places = [divmod(number, samples) for number in batch]
                batch_prompts = [prompts[i] for i, _ in places]
                choice = (
                    RandomChoice(
                        [text_seed(sampling.seed, sample, prompts[i]) for i, sample in places],
                        sampling.temperature,
                    )
                    if sampling
                    else Greedy()
                )
                written = continued(
                    model, batch_prompts, max_new_tokens, ends, over, filler, choice, switch
                )
                for (i, sample), new in zip(places, written, strict=True):
                    texts[i][sample] = _before(text(new), until).strip()
                done += len(batch)
                if progress is not None:
                    progress(done, len(prompts) * samples)
    finally:
        model.train(was_training)
    return texts


def _batches(
    lengths: Sequence[int], batch_size: int, regime_of: Callable[[int], int]
) -> list[list[int]]:
    """Indices of texts in batches, short texts first; a batch has texts of one regime only."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    batches = []
    for kind, group in itertools.groupby(order, lambda i: regime_of(lengths[i])):
        alike, size = list(group), 1 if kind == CROSSING else batch_size
        batches += [alike[start : start + size] for start in range(0, len(alike), size)]
    return batches


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of these stops."""
    return text[: min((place for place in map(text.find, stops) if place >= 0), default=len(text))]


def _ends(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None}
