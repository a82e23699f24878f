"""What a model writes: batches sorted by length, padded at the left, with the key–value cache.

Our own loop and not `model.generate`, whose batch goes on until its longest answer ends.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mpu_cli.data.batches import pad_id
from mpu_cli.data.vocabulary import embedding_rows
from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.rope import CROSSES, regime, switches_beyond
from mpu_cli.evaluation.sampling import Greedy, RandomChoice, Sampling, text_seed
from mpu_cli.modeling.head import head_sees_only
from mpu_cli.modeling.hooks.cache import reads_padding
from mpu_cli.modeling.load import quiet_transformers

_LOOK_EVERY = 8
"""New tokens of a row between two looks for a text that ends it: what is written beyond it is cut off anyway."""


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
    """The model's continuations of every prompt, in the given order.

    One greedy text, or as many as are sampled.

    What a model directory recommends for chatting (a temperature, a repetition penalty) is no part
    of a measurement.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
        prompts: token ids, each prompt at least one.
        max_new_tokens: at most this many new tokens.
        batch_size: texts in a batch, samples counted.
        stop: tokens that end an answer besides the model's own end tokens.
        until: texts before the first of which an answer ends.
        sampling: None is greedy. What is drawn depends on the seed and the prompt alone; the global
            generator is not touched.
        progress: told after every batch: (texts done, texts in all).

    Raises:
        BadModelError: a model without a key–value cache.
    """
    refuse_without_cache(model)
    filler, ends = pad_id(tokenizer, embedding_rows(model)), _ends(model, tokenizer) | set(stop)

    def text(new: Sequence[int]) -> str:
        return str(tokenizer.decode(new, skip_special_tokens=True))

    def over(new: Sequence[int]) -> bool:
        return len(new) % _LOOK_EVERY == 0 and any(stop in text(new) for stop in until)

    switch = switches_beyond(model.config)
    wanted = [
        (i, sample)
        for i in range(len(prompts))
        for sample in range(sampling.samples if sampling else 1)
    ]
    texts: list[list[str]] = [[""] * (sampling.samples if sampling else 1) for _ in prompts]
    wanted.sort(key=lambda text: len(prompts[text[0]]))
    alone = reads_padding(model)
    batches: list[list[tuple[int, int]]] = []
    for where, part in itertools.groupby(
        wanted, lambda text: regime(len(prompts[text[0]]), max_new_tokens, switch)
    ):
        size, same = 1 if alone or where == CROSSES else batch_size, list(part)
        batches += [same[start : start + size] for start in range(0, len(same), size)]
    done = 0
    was_training = model.training
    model.eval()
    try:
        with quiet_transformers():
            for here in batches:
                pick = (
                    RandomChoice(
                        [text_seed(sampling.seed, k, prompts[i]) for i, k in here],
                        sampling.temperature,
                    )
                    if sampling
                    else Greedy()
                )
                written = _continued(
                    model,
                    [prompts[i] for i, _ in here],
                    max_new_tokens,
                    ends,
                    over,
                    filler,
                    pick,
                    switch,
                )
                for (i, sample), new in zip(here, written, strict=True):
                    texts[i][sample] = _before(text(new), until).strip()
                done += len(here)
                if progress is not None:
                    progress(done, len(wanted))
    finally:
        model.train(was_training)
    return texts


def refuse_without_cache(model: Any) -> None:
    """Refuse a model that would forget what it has read between two tokens (Mamba and MiniMax keep their state elsewhere).

    Raises:
        BadModelError: it takes no keys and values, or only in a cache of its own.
    """
    kind = model.config.model_type
    if "past_key_values" not in _parameters(model) or kind == "minimax":
        raise BadModelError(
            f"a {kind} keeps no keys and values, and cannot be asked to write here",
            "give --no-generate",
        )


@torch.inference_mode()
def _continued(
    model: Any,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: AbstractSet[int],
    over: Callable[[Sequence[int]], bool],
    filler: int,
    pick: Greedy | RandomChoice,
    switch: int | None,
) -> list[list[int]]:
    """New tokens of every prompt of a batch, up to the first end, which is left out, or until a row's tokens are `over`.

    What all prompts begin with is read once, and rows that have ended leave the batch: on a CPU,
    where a batch is worth its tokens, that is half of the work.
    """
    device = next(model.parameters()).device
    placed = "position_ids" in _parameters(model)
    cache = DynamicCache(config=model.config)
    shared = _shared(model, prompts, most, switch) if placed else 0
    if shared:
        first = torch.tensor([prompts[0][:shared]], device=device)
        with head_sees_only(model, torch.zeros_like(first, dtype=torch.bool)):
            model(input_ids=first, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))

    def read(ids: Tensor, places: Tensor) -> Tensor:
        """Logits of new tokens (B, T) at their positions.

        `mask` is of all that is in the cache, and of these.
        """
        known = {"position_ids": places} if placed else {}
        logits: Tensor = model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **known
        ).logits
        return logits

    ids, rest = (
        part.to(device) for part in _left_padded([prompt[shared:] for prompt in prompts], filler)
    )
    mask = torch.cat([rest.new_ones(len(prompts), shared), rest], dim=1)
    places = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    last = torch.zeros_like(rest, dtype=torch.bool)
    last[:, -1] = True
    with head_sees_only(model, last) as chosen:
        logits = read(ids, places)
    logits = logits[0] if chosen else logits[:, -1]
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for step in range(most):
        if not bool(
            logits.amax(dim=-1).isfinite().all()
        ):  # −∞ for some words is a mask, for all of them it is none
            raise BadModelError(
                "while writing: the model's logits are not finite",
                "the weights are broken, or overflow in this precision",
            )
        tokens = pick(logits)
        said = enumerate(tokens.tolist())
        going = [
            place for place, token in said if _goes_on(written[rows[place]], token, ends, over)
        ]
        if not going or step + 1 == most:
            break
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            tokens, mask, places = tokens[kept], mask[kept], places[kept]
            pick.keep(going)
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        places = places[:, -1:] + 1
        ids = tokens[:, None]
        if switch is not None and len(prompts) == 1 and mask.shape[1] == switch + 1:
            # From here on positions are turned otherwise, so all that was read is read again.
            cache, ids = (
                DynamicCache(config=model.config),
                torch.tensor([[*prompts[0], *written[0]]], device=device),
            )
            places = torch.arange(ids.shape[1], device=device)[None]
        logits = read(ids, places)[:, -1]
    return written


def _goes_on(
    row: list[int], token: int, ends: AbstractSet[int], over: Callable[[Sequence[int]], bool]
) -> bool:
    """Add the token to the row unless it is an end; whether more shall come."""
    if token in ends:
        return False
    row.append(token)
    return not over(row)


def _before(text: str, stops: Sequence[str]) -> str:
    """The text before the first of these, all of it where there is none."""
    return text[: min((place for place in map(text.find, stops) if place >= 0), default=len(text))]


def _shared(model: Any, prompts: Sequence[Sequence[int]], most: int, switch: int | None) -> int:
    """How many tokens at the beginning of all prompts may be read once, by a model whose positions are ours to give.

    The padding of shorter prompts then lies between these and the rest; so nothing may lie beyond a
    window, which counts padding, and nothing beyond the switch, where the beginning would be turned
    otherwise.
    """
    text = model.config.get_text_config().to_dict()
    limits = [
        value
        for key, value in text.items()
        if key.endswith(("window", "window_size", "chunk_size")) and type(value) is int
    ]
    limits += [] if switch is None else [switch]
    if len(prompts) == 1 or any(max(map(len, prompts)) + most > limit for limit in limits):
        return 0
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _parameters(model: Any) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters


def _ends(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    return {int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None}


def _left_padded(
    prompts: Sequence[Sequence[int]], filler: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, each (B, T)."""
    length = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[filler] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
