"""Continue one batch of prompts token by token, padded at the left, with a key–value cache.

What all prompts begin with is read once, and rows that have ended leave the batch. On a CPU, where
the time of a batch grows with its tokens, this halves the work.
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

from mpu_cli.errors import BadModelError
from mpu_cli.evaluation.sampling import Greedy, RandomChoice
from mpu_cli.modeling.head import head_sees_only


def refuse_without_cache(model: Any) -> None:
    """Refuse a model without a key–value cache (Mamba and MiniMax keep their state elsewhere).

    Raises:
        BadModelError: it takes no keys and values, or takes them only in a cache of its own.
    """
    kind = model.config.model_type
    if "past_key_values" not in _parameters(model) or kind == "minimax":
        raise BadModelError(
            f"a {kind} model has no key-value cache, so mpu cannot generate text with it",
            "give --no-generate",
        )


@torch.inference_mode()
def continued(
    model: Any,
    prompts: Sequence[Sequence[int]],
    limit: int,
    ends: AbstractSet[int],
    over: Callable[[Sequence[int]], bool],
    filler: int,
    choice: Greedy | RandomChoice,
    switch: int | None,
) -> list[list[int]]:
    """The new tokens of every prompt of a batch.

    Args:
        model: a causal language model of transformers.
        prompts: B prompts of one RoPE regime; a prompt that may cross the switch comes alone.
        limit: the most new tokens.
        ends: tokens that end a row; they are left out.
        over: whether a row with these new tokens is complete.
        filler: the token to pad with.
        choice: chooses the next tokens.
        switch: see `rope_regime.switch_length`.

    Raises:
        BadModelError: logits that are not finite.
    """
    device = next(model.parameters()).device
    takes_positions = "position_ids" in _parameters(model)
    cache = DynamicCache(config=model.config)
    shared = _shared_prefix(model, prompts, limit, switch) if takes_positions else 0
    if shared:
        first = torch.tensor([prompts[0][:shared]], device=device)
        with head_sees_only(model, torch.zeros_like(first, dtype=torch.bool)):
            model(input_ids=first, past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(len(prompts))

    def read(ids: Tensor, positions: Tensor) -> Tensor:
        """Logits of new tokens (B, T); `mask` covers what is in the cache and these tokens."""
        known = {"position_ids": positions} if takes_positions else {}
        logits: Tensor = model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **known
        ).logits
        return logits

    ids, rest = (
        part.to(device) for part in _left_padded([prompt[shared:] for prompt in prompts], filler)
    )
    mask = torch.cat([rest.new_ones(len(prompts), shared), rest], dim=1)
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, shared:]
    last = torch.zeros_like(rest, dtype=torch.bool)
    last[:, -1] = True
    with head_sees_only(model, last) as only_last:
        logits = read(ids, positions)
    logits = logits[0] if only_last else logits[:, -1]
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for step in range(limit):
        # −∞ for some tokens is a mask; −∞ for all of them is an error.
        if not bool(logits.amax(dim=-1).isfinite().all()):
            raise BadModelError(
                "the model's logits are not finite while it generates text",
                "the weights are broken, or overflow in this precision",
            )
        tokens = choice(logits)
        going = [
            place
            for place, token in enumerate(tokens.tolist())
            if _goes_on(written[rows[place]], token, ends, over)
        ]
        if not going or step + 1 == limit:
            break
        if len(going) < len(rows):
            left = torch.tensor(going, device=device)
            cache.batch_select_indices(left)
            tokens, mask, positions = tokens[left], mask[left], positions[left]
            choice.keep(going)
            rows = [rows[place] for place in going]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        positions = positions[:, -1:] + 1
        ids = tokens[:, None]
        if switch is not None and len(prompts) == 1 and mask.shape[1] == switch + 1:
            # From here on the long regime rotates every position, so all tokens are read again.
            cache = DynamicCache(config=model.config)
            ids = torch.tensor([[*prompts[0], *written[0]]], device=device)
            positions = torch.arange(ids.shape[1], device=device)[None]
        logits = read(ids, positions)[:, -1]
    return written


def _goes_on(
    row: list[int], token: int, ends: AbstractSet[int], over: Callable[[Sequence[int]], bool]
) -> bool:
    """Add the token to the row unless it is an end; return whether the row goes on."""
    if token in ends:
        return False
    row.append(token)
    return not over(row)


def _shared_prefix(
    model: Any, prompts: Sequence[Sequence[int]], limit: int, switch: int | None
) -> int:
    """How many first tokens of all prompts may be read once, if the model takes positions.

    The padding of shorter prompts then lies between this prefix and the rest. So no row may reach
    beyond an attention window, which counts padding, or beyond the RoPE switch, where the prefix
    would be rotated in another way.
    """
    config = model.config.get_text_config().to_dict()
    bounds = [
        value
        for key, value in config.items()
        if key.endswith(("window", "window_size", "chunk_size")) and type(value) is int
    ]
    bounds += [] if switch is None else [switch]
    longest = max(map(len, prompts))
    if len(prompts) == 1 or any(longest + limit > bound for bound in bounds):
        return 0
    alike = itertools.takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    return min(sum(1 for _ in alike), min(map(len, prompts)) - 1)


def _parameters(model: Any) -> Mapping[str, Any]:
    return inspect.signature(model.forward).parameters


def _left_padded(prompts: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, each (B, T)."""
    length = max(map(len, prompts))
    ids = torch.tensor([[filler] * (length - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
