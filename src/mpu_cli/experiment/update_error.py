"""`python -m mpu_cli.experiment.update_error MODEL PLAIN RESULT`: how far RESULT is from PLAIN.

It prints one JSON object with `error` = ‖Δ − Δ₀‖ / ‖Δ₀‖, where Δ = RESULT − MODEL and
Δ₀ = PLAIN − MODEL over all weights, in float64. It is null where plain unlearning changed nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from math import sqrt
from pathlib import Path

import torch

from mpu_cli.checkpoint.dtypes import TORCH_DTYPES, Scratch, read_span, spans
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import BadModelError


def update_error(model: Path, plain: Path, result: Path) -> float | None:
    """‖Δ − Δ₀‖ / ‖Δ₀‖; None if Δ₀ is zero.

    Args:
        model: θ.
        plain: the model after plain unlearning.
        result: the model to compare with it.

    Raises:
        BadModelError: the models do not have the same tensors.
    """
    opened = [open_checkpoint(path).tensors for path in (model, plain, result)]
    distance = change = 0.0
    for name, info in opened[0].items():
        others = [tensors.get(name) for tensors in opened[1:]]
        if any(other is None or other.shape != info.shape for other in others):
            raise BadModelError(f"{result}: tensor {name} is not as in {model}")
        if info.dtype not in TORCH_DTYPES:
            continue  # integer buffers are never trained
        parts = _sums([info, *(other for other in others if other is not None)])
        distance, change = distance + parts[0], change + parts[1]
    return sqrt(distance / change) if change else None


def _sums(infos: Sequence[TensorInfo]) -> tuple[float, float]:
    """‖result − plain‖² and ‖plain − model‖² of one tensor."""
    scratches = [Scratch() for _ in infos]
    distance = change = 0.0
    for start, stop in spans(infos[0].elements):
        model, plain, result = (
            read_span(info, start, stop, scratch).double()
            for info, scratch in zip(infos, scratches, strict=True)
        )
        distance += float((result - plain).square().sum())
        change += float((plain - model).square().sum())
    return distance, change


def main(arguments: Sequence[str]) -> None:
    """Print the error of three model directories as JSON."""
    torch.set_num_threads(1)
    model, plain, result = map(Path, arguments)
    sys.stdout.write(json.dumps({"error": update_error(model, plain, result)}) + "\n")


if __name__ == "__main__":
    main([word for word in sys.argv[1:] if word != "--json"])
