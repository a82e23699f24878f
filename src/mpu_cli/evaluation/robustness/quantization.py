"""Weights rounded to 8 and 4 bits.

Quantization often brings forgotten text back (Zhang et al., arXiv 2410.16454).

Round to nearest, symmetric, one scale for each output row and group of 128 inputs, as GPTQ's and
AWQ's baselines do; the matrices of the decoder's layers only, as deployments do (embeddings, head
and norms stay). The activations stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import MeasuredRows, ModelUnderTest
from mpu_cli.evaluation.robustness._check import Check, together, under

GROUP = 128
BITS = (8, 4)


def round_to_nearest(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """Each group of `group` entries of the last axis on a grid of 2^bits − 1 values, symmetric about 0.

    Args:
        weight: (…, n); where `group` does not divide n, the last group is shorter.
        bits: 2 to 8.
        group: entries that share a scale.
    """
    levels = 2 ** (bits - 1) - 1
    parts = []
    for part in torch.split(weight.float(), group, dim=-1):
        scale = (
            part.abs().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            / levels
        )
        parts.append((part / scale).round().clamp(-levels, levels) * scale)
    return torch.cat(parts, dim=-1).to(weight.dtype)


def matrices(model: Any) -> list[tuple[Tensor, bool]]:
    """The weights that are rounded, and whether a column is one output.

    Linear layers and stacked experts, not the head.

    Embeddings, convolutions, norms and routers of their own class stay, as they do in GPTQ's and
    AWQ's files.
    """
    head = model.get_output_embeddings()
    kept = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    found: dict[int, tuple[Tensor, bool]] = {}
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            weights, turned = [module.weight], isinstance(module, Conv1D)
        elif isinstance(module, torch.nn.modules.conv._ConvNd):
            continue
        else:  # experts: (E, outputs, inputs), or transposed where the class says so (gpt-oss)
            weights = [
                p for p in module.parameters(recurse=False) if p.dim() == 3 and min(p.shape[1:]) > 1
            ]
            turned = getattr(module, "is_transposed", type(module).__name__ == "Llama4TextExperts")
        found |= {id(weight): (weight, turned) for weight in weights if id(weight) not in kept}
    return list(found.values())


@contextmanager
def quantized(model: Any, bits: int) -> Iterator[None]:
    """The model with rounded weights; they are what they were afterwards, bit for bit."""
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for weight, turned in matrices(model):
                kept.append((weight, weight.detach().clone()))
                weight.copy_(
                    round_to_nearest(weight.mT, bits).mT
                    if turned
                    else round_to_nearest(weight, bits)
                )
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def run(subject: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """All metrics, at every width."""
    found = []
    for bits in BITS:
        with quantized(subject.model, bits):
            found.append(under(f"{bits}-bit", subject.measure(metrics)))
    return together(found)


CHECK = Check(
    "quantization",
    f"weights rounded to nearest in {' and '.join(map(str, BITS))} bits, groups of {GROUP}; then"
    " the metrics again",
    "Zhang et al., arXiv 2410.16454; Frantar et al., arXiv 2210.17323 (the rounding)",
    run,
)
