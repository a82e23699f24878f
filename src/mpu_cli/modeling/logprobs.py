"""Negative log-likelihoods (NLL, in nats) of labelled tokens, from which the losses are built.

For a row, ℓ_t = −log p(y_t | y_<t) and NLL = Σ_t ℓ_t over its labelled tokens. Logits at position t
predict token t + 1, so labels are shifted by one here, and only here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mpu_cli.data.batches import collate
from mpu_cli.data.templates import IGNORED, TokenizedRow
from mpu_cli.modeling.head import logits_at


def token_counts(labels: Tensor) -> Tensor:
    """The number of labelled tokens of each row, (B,) int64; the first token is never predicted."""
    return _counted(labels).sum(dim=1)


def batch_nll(model: Any, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The rows' NLL sums (B,) in nats, with gradient, and token counts (B,), in one forward pass.

    Args:
        model: a causal language model of transformers.
        rows: `input_ids`, `attention_mask`, `labels`, each (B, T), as `data.batches.collate` makes
            them.
    """
    losses, counted = labelled_nll(model, rows), _counted(rows["labels"])
    # Summed along rows, so that the order of summation is fixed on a GPU too.
    return losses.new_zeros(counted.shape).masked_scatter(counted, losses).sum(dim=1), counted.sum(
        dim=1
    )


def token_mean_nll(model: Any, rows: Mapping[str, Tensor]) -> Tensor:
    """The mean NLL over the batch's labelled tokens, a scalar in nats per token, with gradient.

    This is the NLL retain loss; its negative is gradient ascent.
    """
    nll, tokens = batch_nll(model, rows)
    return batch_mean(nll.sum(), tokens.sum())


def labelled_predictions(model: Any, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The logits (N, V) that predict the N labelled tokens, with gradient, and those tokens (N,).

    One forward pass; row after row, in order of position, at least float32.
    """
    labels = rows["labels"]
    counted = _counted(labels)
    logits = logits_at(model, rows, functional.pad(counted, (0, 1)))
    return (logits.float() if logits.dtype.itemsize < 4 else logits), labels[:, 1:][counted]


def _counted(labels: Tensor) -> Tensor:
    """Which positions predict a labelled token, (B, T − 1)."""
    return labels[:, 1:] != IGNORED


def labelled_nll(model: Any, rows: Mapping[str, Tensor]) -> Tensor:
    """ℓ_t of every labelled token, (N,) in nats, row by row, with gradient, in one forward pass."""
    logits, targets = labelled_predictions(model, rows)
    return functional.cross_entropy(logits, targets, reduction="none")


def token_mean_kl(model: Any, rows: Mapping[str, Tensor], reference_logits: Tensor) -> Tensor:
    """The mean of KL(reference ‖ model) over labelled tokens, a scalar in nats, with gradient.

    Args:
        model: a causal language model of transformers.
        rows: `input_ids`, `attention_mask`, `labels`, each (B, T).
        reference_logits: (N, V), of the labelled tokens as `labelled_predictions` orders them.
    """
    logits, targets = labelled_predictions(model, rows)
    log_p, log_q = reference_logits.to(logits).log_softmax(-1), logits.log_softmax(-1)
    return batch_mean(
        functional.kl_div(log_q, log_p, reduction="sum", log_target=True), len(targets)
    )


def batch_mean(total: Tensor, count: Tensor | int) -> Tensor:
    """A total over a count, for the whole batch: all losses are averaged here.

    If several processes hold parts of the batch, the count is summed over them, and the part is
    scaled so that the mean over the processes, which DDP and FSDP take of gradients, is the mean
    over the whole batch. Every process must then call it equally often. A count of 0 gives 0.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        everywhere = torch.as_tensor(count, device=total.device, dtype=torch.float64).clone()
        torch.distributed.all_reduce(everywhere)
        return total * (torch.distributed.get_world_size() / max(everywhere.item(), 1.0))
    return total / (count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1))


def mean_probability(measured: Sequence[tuple[float, int]]) -> float:
    """Mean of exp(−NLL / tokens), in [0, 1], over rows that `answer_nll` measured."""
    return sum(math.exp(-nll / max(tokens, 1)) for nll, tokens in measured) / len(measured)


def answer_nll(
    model: Any, encoded_rows: Sequence[TokenizedRow], batch_size: int, pad_id: int
) -> list[tuple[float, int]]:
    """NLL sum in nats and token count of every row, in order; see `in_evaluation`.

    `exp(−nll_sum / n_tokens)` is the answer probability of TOFU (Maini et al. 2401.06121).
    """
    results: list[tuple[float, int]] = [(0.0, 0)] * len(encoded_rows)

    def take(places: Sequence[int], rows: dict[str, Tensor]) -> None:
        nll, tokens = batch_nll(model, rows)
        for place, nll_sum, n_tokens in zip(places, nll.tolist(), tokens.tolist(), strict=True):
            results[place] = (float(nll_sum), int(n_tokens))

    in_evaluation(model, encoded_rows, range(len(encoded_rows)), batch_size, pad_id, take)
    return results


@torch.no_grad()
def in_evaluation(
    model: Any,
    encoded_rows: Sequence[TokenizedRow],
    places: Iterable[int],
    batch_size: int,
    pad_id: int,
    take: Callable[[Sequence[int], dict[str, Tensor]], None],
) -> None:
    """Call `take(places, rows)` on batches of rows, in evaluation mode and without gradient.

    Args:
        model: its mode is restored afterwards.
        encoded_rows: all rows.
        places: the indices of the rows to take; they are sorted by length to reduce padding.
        batch_size: rows in a batch.
        pad_id: the token that fills short rows.
        take: called with the batch's indices and rows, each (B, T), on the model's device.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    order = sorted(places, key=lambda i: len(encoded_rows[i].input_ids))
    try:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = collate([encoded_rows[i] for i in chosen], pad_id)
            take(chosen, {name: value.to(device) for name, value in rows.items()})
    finally:
        model.train(was_training)
