"""Weights rounded to 8 and 4 bits, which often restores forgotten text (arXiv 2410.16454).

Round to nearest, symmetric, with one scale for each output row and group of 128 inputs, as in the
baselines of GPTQ and AWQ. Only the matrices of the decoder layers are rounded, as deployments do;
embeddings, head, norms and activations keep their precision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from mpu_cli.evaluation.measured_rows import MeasuredRows, together
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import ModelUnderTest
from mpu_cli.evaluation.robustness._check import Check

GROUP = 128
BITS = (8, 4)


def round_to_nearest(weight: Tensor, bits: int, group: int = GROUP) -> Tensor:
    """Round each group of entries of the last axis to 2^bits − 1 values, symmetric about 0.

    Args:
        weight: (…, n); where `group` does not divide n, the last group is shorter.
        bits: 2 to 8.
        group: entries that share a scale.
    """
    levels = 2 ** (bits - 1) - 1
    parts = []
    for part in torch.split(weight.float(), group, dim=-1):
        largest = part.abs().amax(dim=-1, keepdim=True)
        scale = largest.clamp(min=torch.finfo(torch.float32).tiny) / levels
        parts.append((part / scale).round().clamp(-levels, levels) * scale)
    return torch.cat(parts, dim=-1).to(weight.dtype)


def matrices(model: Any) -> list[tuple[Tensor, bool]]:
    """The weights to round, and whether each is stored transposed (a column is one output).

    These are linear layers and stacked experts without the head. Embeddings, convolutions, norms
    and routers of a class of their own keep their precision, as in GPTQ's and AWQ's files.
    """
    head = model.get_output_embeddings()
    spared = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    rounded: dict[int, tuple[Tensor, bool]] = {}
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            weights, transposed = [module.weight], isinstance(module, Conv1D)
        elif isinstance(module, torch.nn.modules.conv._ConvNd):
            continue
        else:  # experts: (E, outputs, inputs), or transposed where the class says so (gpt-oss)
            weights = [
                p for p in module.parameters(recurse=False) if p.dim() == 3 and min(p.shape[1:]) > 1
            ]
            transposed = getattr(
                module, "is_transposed", type(module).__name__ == "Llama4TextExperts"
            )
        rounded |= {id(w): (w, transposed) for w in weights if id(w) not in spared}
    return list(rounded.values())


@contextmanager
def quantized(model: Any, bits: int) -> Iterator[None]:
    """Round the model's weights; afterwards they are restored bit for bit."""
    originals: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for weight, transposed in matrices(model):
                originals.append((weight, weight.detach().clone()))
                weight.copy_(
                    round_to_nearest(weight.mT, bits).mT
                    if transposed
                    else round_to_nearest(weight, bits)
                )
        yield
    finally:
        with torch.no_grad():
            for weight, original in originals:
                weight.copy_(original)


def run(tested: ModelUnderTest, metrics: Collection[RowMetric]) -> MeasuredRows:
    """All metrics, at every width."""
    parts = []
    for bits in BITS:
        with quantized(tested.model, bits):
            parts.append(tested.measure(metrics).under(f"{bits}-bit"))
    return together(parts)


CHECK = Check(
    "quantization",
    f"weights rounded to nearest in {' and '.join(map(str, BITS))} bits, groups of {GROUP}; then"
    " the metrics again",
    "Zhang et al., arXiv 2410.16454; Frantar et al., arXiv 2210.17323 (the rounding)",
    run,
)
