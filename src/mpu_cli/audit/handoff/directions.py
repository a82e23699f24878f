"""The directions of the base's activations, which whoever has the base can compute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.head import head_sees_only
from mpu_cli.modeling.hooks.loading import names_in_memory
from mpu_cli.modeling.logprobs import in_evaluation

MOST_INPUTS = 4096
"""Matrices with more inputs are left out: eigenvectors of 8192 inputs would take minutes."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Of the inputs of one matrix."""

    vectors: torch.Tensor
    """Eigenvectors of E[xxᵀ], (inputs, directions) float32, the smallest eigenvalue first."""
    inputs_last: bool
    """Whether the matrix is stored as (outputs, inputs)."""


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A module that multiplies by one stored matrix."""

    layer: int
    name: str
    """On disk."""
    module: Any
    inputs_last: bool


def input_directions(
    model: Any, layout: ModelLayout, layers: Sequence[int], rows: Sequence[TokenizedRow]
) -> dict[int, dict[str, Directions]]:
    """The directions of each matrix that a module of its own multiplies by, by layer and name.

    Matrices that transformers fuses in memory with others (experts), or that have more than
    `MOST_INPUTS` inputs, are left out.

    Args:
        model: the base, loaded by `modeling.load`.
        layout: of the copies; the base has the same tensors.
        layers: the layers to run hooks on.
        rows: texts.
    """
    matrices = list(_matrices(model, layout, layers))
    with _products(matrices) as products:
        in_evaluation(model, rows, range(len(rows)), 8, 0, lambda _, batch: _run(model, batch))
    vectors = {key: torch.linalg.eigh(product)[1].float() for key, product in products.sums.items()}
    found: dict[int, dict[str, Directions]] = {layer: {} for layer in layers}
    for matrix in matrices:
        if (key := products.keys.get(matrix.name)) is not None:
            found[matrix.layer][matrix.name] = Directions(vectors[key], matrix.inputs_last)
    return found


def without_directions(
    holding: Holding, found: Mapping[int, Mapping[str, Directions]]
) -> list[str]:
    """The matrices of the layers that were run which have no directions."""
    shapes = holding.copies[0].checkpoint.tensors
    return [
        name
        for layer in found
        for name in holding.layout.layers[layer].noised
        if name not in found[layer] and len(shapes[name].shape) > 1
    ]


def _run(model: Any, batch: Mapping[str, torch.Tensor]) -> None:
    """One forward pass; the head sees nothing."""
    with head_sees_only(model, torch.zeros_like(batch["input_ids"], dtype=torch.bool)):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)


def _matrices(model: Any, layout: ModelLayout, layers: Iterable[int]) -> Iterator[_Matrix]:
    modules = dict(model.named_modules())
    wanted = {name: layer for layer in layers for name in layout.layers[layer].noised}
    in_memory = names_in_memory(model, sorted(wanted))
    for name, parameter in in_memory.items():
        module_name, _, last = parameter.rpartition(".")
        module = modules.get(module_name)
        weight = getattr(module, "weight", None)
        if last != "weight" or weight is None or weight.ndim != 2:
            continue
        if list(in_memory.values()).count(parameter) > 1:
            continue
        kind = type(module).__name__
        if kind not in {"Linear", "Conv1D"}:  # routers and norms of a family's own
            continue
        yield _Matrix(wanted[name], name, module, inputs_last=kind == "Linear")


class _InputProducts:
    """E[xxᵀ] without the division, one for all modules that get the same tensor."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.keys: dict[str, str] = {}
        """The matrix under whose name a matrix's products are kept."""
        self._last: tuple[torch.Tensor, str] | None = None

    def add(self, name: str, inputs: torch.Tensor) -> None:
        """Add the inputs (…, inputs) that a module got."""
        if inputs.shape[-1] > MOST_INPUTS:
            return
        if (
            self._last is not None
            and self._last[0] is inputs
            and self.keys.get(name, self._last[1]) == self._last[1]
        ):
            self.keys[name] = self._last[1]
            return
        self.keys.setdefault(name, name)
        flat = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        total = self.sums.get(name)
        self.sums[name] = flat.T @ flat if total is None else total.addmm_(flat.T, flat)
        self._last = (inputs, name)


@contextmanager
def _products(matrices: Sequence[_Matrix]) -> Iterator[_InputProducts]:
    """Within the context, the model's forward passes are added up."""
    sums, hooks = _InputProducts(), []
    try:
        for matrix in matrices:

            def see(_: Any, inputs: tuple[Any, ...], name: str = matrix.name) -> None:
                sums.add(name, inputs[0])

            hooks.append(matrix.module.register_forward_pre_hook(see))
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
